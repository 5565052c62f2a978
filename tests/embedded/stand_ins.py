"""Stand-ins for the service's own processes, for the tests of what starts, keeps and ends them.

Each says in the file `story` of the data folder when it starts and ends. The app says to whatever is asked that there
is a live worker.
"""

import shutil
from pathlib import Path

_TOLD = """\
import os, signal, sys, threading
from http.server import BaseHTTPRequestHandler, HTTPServer

def tell(what):
    with open(os.environ["LLM_BENCH_DATA"] + "/story", "a") as story:
        story.write(f"{NAME} {what}\\n")

def until_stopped():
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    tell("starts")
    try:
        while True:
            signal.pause()
    finally:
        tell("ends")
"""

_IDLE = """
until_stopped()
"""

_PROJECTION = """
if sys.argv[1:] == ["migrate"]:
    tell("migrates")
else:
    until_stopped()
"""

_APP = """
class Fine(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"items": [{"alive": true}]}')

    def log_message(self, *_):
        pass

server = HTTPServer((os.environ["LLM_BENCH_HOST"], int(os.environ["LLM_BENCH_PORT"])), Fine)
threading.Thread(target=server.serve_forever, daemon=True).start()
until_stopped()
"""


def write_stand_ins(folder: Path) -> Path:
    """A working directory for `python -m embedded` in which `-m app` and the others mean these."""
    for module, name, code in (
        ("app", "app", _APP),
        ("consumers/inference", "worker", _IDLE),
        ("consumers/projection", "projection", _PROJECTION),
    ):
        package = folder / module
        package.mkdir(parents=True)
        (package / "__main__.py").write_text(f"NAME = {name!r}\n{_TOLD}{code}", encoding="utf-8")
    checkout = Path(__file__).parents[2]
    for ours in ("embedded", "events"):
        shutil.copytree(checkout / ours, folder / ours, ignore=shutil.ignore_patterns("__pycache__"))
    return folder
