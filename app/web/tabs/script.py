"""The page's own script. A component that needs it has it as its head: Gradio loads it before that one's js_on_load."""

PAGE_SCRIPT = '<script src="abq/page.js"></script>'
READY = "while (!window.abq) await new Promise((done) => setTimeout(done, 10));"
