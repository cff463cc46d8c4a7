"""The page's JavaScript. Gradio loads a component's head before its js_on_load."""

PAGE_SCRIPT = '<script src="abq/page.js"></script>'
READY = "while (!window.abq) await new Promise((done) => setTimeout(done, 10));"
