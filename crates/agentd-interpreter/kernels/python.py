"""Executes the cells of a session in one Python process.

The host writes a frame for each cell to descriptor 9, and reads the frames of the results from it. A frame is a decimal length, a
line feed, and as many bytes of JSON. Standard output and standard error go to the host directly, so that nothing that the code of
a cell prints can look like a frame.
"""

import ast
import base64
import builtins
import io
import json
import linecache
import os
import signal
import sys
import threading
import traceback
import types

CONTROL = 9
MAX_FRAME = 8 << 20
MAX_TEXT = 256 << 10
MAX_ROWS = 1000
MAX_DEPTH = 64
TABLE = "application/vnd.agentd.table+json"


class Kernel:
    def __init__(self):
        self.cell = 0
        self.number = 0
        self.executing = False
        self.writing = False
        self.interrupted = False
        self.lock = threading.RLock()
        self.loop = None
        self.module = types.ModuleType("__main__")
        self.module.__dict__["__builtins__"] = builtins

    def read(self, length):
        data = b""
        while len(data) < length:
            piece = os.read(CONTROL, length - len(data))
            if not piece:
                raise EOFError
            data += piece
        return data

    def receive(self):
        head = b""
        while not head.endswith(b"\n"):
            head += self.read(1)
        return json.loads(self.read(int(head)))

    def send(self, kind, **members):
        # A thread that outlives its cell, and a child process, have nothing to report.
        if not self.executing:
            return
        with self.lock:
            if not self.executing:
                return
            frame = encode({"type": kind, "cell": self.cell, **members})
            if len(frame) > MAX_FRAME:
                note = {"text/plain": "[a result of %d bytes is longer than the limit of %d bytes]" % (len(frame), MAX_FRAME)}
                frame = encode({"type": kind, "cell": self.cell, "data": note})
            self.write(b"%d\n%s" % (len(frame), frame))

    def write(self, data):
        # Only the main thread handles signals. An interrupt must not cut a frame.
        is_main = threading.current_thread() is threading.main_thread()
        self.writing = self.writing or is_main
        while data:
            data = data[os.write(CONTROL, data):]
        if is_main:
            self.writing = False
            if self.interrupted and self.executing:
                self.interrupted = False
                raise KeyboardInterrupt

    def run(self, source):
        namespace = self.module.__dict__
        self.number += 1
        name = "<cell %d>" % self.number
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        tree = ast.parse(source, name)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr):
            last = ast.Expression(tree.body.pop().value)
        self.evaluate(compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
        if last is not None:
            value = self.evaluate(compile(last, name, "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), namespace)
            if value is not None:
                namespace["_"] = value
                self.send("value", data=bundle(value))

    def evaluate(self, code, namespace):
        result = eval(code, namespace)
        if not code.co_flags & 0x80:  # CO_COROUTINE
            return result
        if self.loop is None:
            import asyncio

            self.loop = asyncio.new_event_loop()
            asyncio.set_event_loop(self.loop)
        return self.loop.run_until_complete(result)

    def report(self, error):
        frames = error.__traceback__
        # The frames of this file are not those of the cell.
        while frames is not None and frames.tb_frame.f_code.co_filename == __file__:
            frames = frames.tb_next
        try:
            if isinstance(error, SyntaxError) and frames is not None and frames.tb_frame.f_code.co_filename == ast.__file__:
                frames = None
            lines = "".join(traceback.format_exception(type(error), error, frames))
            value = str(error)
        except Exception as second:
            lines, value = "", "the error has no text: %s" % type(second).__name__
        self.send("error", name=type(error).__name__, value=value[:MAX_TEXT], traceback=lines[-MAX_TEXT:])

    def execute(self, source):
        status = "ok"
        try:
            try:
                self.run(source)
                figures(self)
            except BaseException as error:
                status = "interrupted" if isinstance(error, KeyboardInterrupt) else "error"
                self.report(error)
            for stream in (sys.stdout, sys.stderr):
                try:
                    stream.flush()
                except Exception:
                    pass
        except KeyboardInterrupt:
            status = "interrupted"
        return status

    def serve(self):
        while True:
            try:
                request = self.receive()
            except KeyboardInterrupt:
                continue
            except (EOFError, OSError):
                # The host has ended the session, or this is a child of a cell.
                return
            source = base64.b64decode(request["source"]).decode("utf-8", "surrogateescape")
            # A cell may have replaced the handler.
            signal.signal(signal.SIGINT, self.interrupt)
            self.cell = request["cell"]
            self.interrupted = False
            self.executing = True
            status = self.execute(source)
            while True:
                try:
                    with self.lock:
                        if self.executing:
                            self.executing = False
                            end = {"type": "done", "cell": self.cell, "status": status, "exit_code": 0 if status == "ok" else 1}
                            frame = encode(end)
                            self.write(b"%d\n%s" % (len(frame), frame))
                    break
                except KeyboardInterrupt:
                    continue

    def interrupt(self, number, frame):
        if self.writing:
            self.interrupted = True
        elif self.executing:
            raise KeyboardInterrupt


def encode(message):
    # A half of a surrogate pair has no form in UTF-8.
    return json.dumps(message, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")


def is_flat(value, depth=0):
    """Returns whether the host accepts the depth of a value."""
    if isinstance(value, dict):
        return depth < MAX_DEPTH and all(is_flat(member, depth + 1) for member in value.values())
    if isinstance(value, (list, tuple)):
        return depth < MAX_DEPTH and all(is_flat(member, depth + 1) for member in value)
    return True


def plain(value):
    try:
        text = repr(value)
    except Exception as error:
        text = "[repr failed: %s]" % type(error).__name__
    return text if len(text) <= MAX_TEXT else text[:MAX_TEXT] + " …"


def frame_table(frame):
    head = json.loads(frame.head(MAX_ROWS).to_json(orient="split", date_format="iso"))
    return {"columns": head["columns"], "index": head["index"], "rows": head["data"], "total_rows": int(len(frame))}


def png(figure):
    data = io.BytesIO()
    figure.savefig(data, format="png", bbox_inches="tight")
    return base64.b64encode(data.getvalue()).decode()


METHODS = {
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "image/svg+xml": "_repr_svg_",
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "application/json": "_repr_json_",
}


def is_a(value, module, name):
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


def bundle(value):
    """Returns the forms of a value, by MIME type."""
    forms = {"text/plain": plain(value)}
    if isinstance(value, type):
        return forms
    for kind, name in METHODS.items():
        method = getattr(value, name, None)
        if not callable(method):
            continue
        try:
            form = method()
        except Exception:
            continue
        if isinstance(form, tuple):
            form = form[0]
        if isinstance(form, bytes):
            form = base64.b64encode(form).decode()
        if form is not None and (kind == "application/json" or isinstance(form, str)):
            forms[kind] = form
    try:
        if is_a(value, "pandas", "Series"):
            forms[TABLE] = frame_table(value.to_frame())
        elif is_a(value, "pandas", "DataFrame"):
            forms[TABLE] = frame_table(value)
        elif is_a(value, "matplotlib.figure", "Figure"):
            forms["image/png"] = png(value)
        if not is_flat(forms):
            raise ValueError("a form of the value has more than %d levels" % MAX_DEPTH)
        encode(forms)
    except Exception as error:
        return {"text/plain": forms["text/plain"] + "\n[%s: %s]" % (type(error).__name__, error)}
    return forms


def figures(kernel):
    """Displays and closes the figures of pyplot."""
    plot = sys.modules.get("matplotlib.pyplot")
    if plot is None or not hasattr(plot, "get_fignums"):
        return
    for number in plot.get_fignums():
        kernel.send("display", data=bundle(plot.figure(number)))
    plot.close("all")


def main():
    kernel = Kernel()
    os.set_inheritable(CONTROL, False)

    def leave():
        kernel.executing = False
        os.close(CONTROL)

    os.register_at_fork(after_in_child=leave)
    os.environ.setdefault("MPLBACKEND", "Agg")
    sys.path[0] = ""
    sys.argv = [""]
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)

    def display(*values):
        for value in values:
            kernel.send("display", data=bundle(value))

    builtins.display = display
    sys.modules["__main__"] = kernel.module
    kernel.serve()


main()
