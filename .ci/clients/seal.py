"""Runs the tests of `iris-seal.mjs` in Node and in Chromium: `seal.py BINARIES CACHE`.

Both get a sealed answer of the built-in model from real processes, too. The page is served from
another origin than the coordinator's, which is told to allow it. BINARIES is the folder with
`iris-coordinator` and `iris-node`, CACHE a folder outside of the clone for what drives the browser.
"""

import functools
import http.server
import os
import shutil
import sys
import tempfile
import threading

import packages
import suite
from network import Failed, Network

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TESTS = os.path.join(ROOT, "iris-crypto", "js", "test")
MODEL = "iris-tiny"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main(binaries, cache):
    os.makedirs(cache, exist_ok=True)
    playwright = os.path.join(packages.browser(cache), "node_modules", "playwright-core")
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"none of {', '.join(BROWSERS)} is installed", file=sys.stderr)
        return 1
    page = serve()
    with tempfile.TemporaryDirectory(prefix="iris-seal-") as folder:
        with Network(os.path.abspath(binaries), folder) as network:
            try:
                network.start_coordinator(IRIS_CORS_ORIGINS=page)
                key = network.new_key("inference")
                network.start_node("engine", {"IRIS_ENGINE": "bundled"})
                is_listed = lambda: MODEL in network.sealed_models(key)
                network.wait_until("the model is in the roster", is_listed)
            except Failed as failure:
                print(f"{failure}\n{network.logs()}", file=sys.stderr)
                return 1
            facts = {
                "baseUrl": network.url,
                "key": key,
                "model": MODEL,
                "page": f"{page}/iris-crypto/js/test/page.html",
                "playwright": os.path.join(playwright, "index.mjs"),
                "browser": browser,
            }
            if suite.run(TESTS, "IRIS_SEAL_FACTS", facts, folder) != 0:
                print(network.logs(), file=sys.stderr)
                return 1
    return 0


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves the clone: the module, its tests and the vectors."""

    extensions_map = {".html": "text/html", ".mjs": "text/javascript", ".json": "application/json"}

    def log_message(self, *_):
        pass


def serve():
    """Serves in the background, and returns the origin."""
    handler = functools.partial(Files, directory=ROOT)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2]))
