"""The page's own script. Components that need it name it as their head: Gradio loads it once, before their js_on_load."""

PAGE_SCRIPT = '<script src="abq/page.js"></script>'
READY = "while (!window.abq) await new Promise((done) => setTimeout(done, 10));"
