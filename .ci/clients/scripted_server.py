"""A model server for tests: speaks the OpenAI API, does what the prompt says, and remembers it.

The last user message is a script: `<marker> <action>`, where the marker names the request for
whoever asks `/recorded?marker=...` afterwards, and the action is one of

    hello       answers GREETING
    tool        calls the first tool of the request
    hold        writes the marker backwards, then a word every 50 ms for as long as the caller
                stays (at most a minute); writes nothing when the answer is not streamed
    cut         writes CUT_AFTER words, or half of an answer that is not streamed, and closes
                the connection without an end
    too-long    refuses the prompt as longer than the context

A message that begins with `echo ` is answered with what comes after that.
"""

import json
import select
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlparse

GREETING = "Hello from the scripted server."
USAGE = {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16}
CUT_AFTER = 3
HOLD_LIMIT = 60.0


class ScriptedServer:
    """Listens on a free port of this machine; looks like llama.cpp, which tells its slots."""

    def __init__(self, model, slots):
        self.model = model
        self.slots = slots
        self.records = {}
        self.lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._http.daemon_threads = True
        self._http.scripted = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def close(self):
        self._http.shutdown()
        self._http.server_close()

    def record(self, marker, **facts):
        with self.lock:
            self.records.setdefault(marker, {}).update(facts)

    def recorded(self, marker):
        with self.lock:
            return dict(self.records.get(marker, {}))


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def setup(self):
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, *_):
        pass

    @property
    def scripted(self):
        return self.server.scripted

    def do_GET(self):
        url = urlparse(self.path)
        if url.path == "/v1/models":
            model = {"id": self.scripted.model, "object": "model", "created": 1, "owned_by": "test"}
            self._json(200, {"object": "list", "data": [model]})
        elif url.path == "/props":
            settings = {"n_ctx": 8192}
            slots = self.scripted.slots
            self._json(200, {"default_generation_settings": settings, "total_slots": slots})
        elif url.path == "/recorded":
            marker = parse_qs(url.query).get("marker", [""])[0]
            self._json(200, self.scripted.recorded(marker))
        else:
            self._error(404, "there is nothing here", None)

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path != "/v1/chat/completions":
            self._error(404, "there is nothing here", None)
            return
        text = _last_user_text(body)
        words = text.split()
        # Speed measurements and the like bring no script; they get the greeting.
        marker, action = words if len(words) == 2 else ("", "hello")
        if text.startswith("echo "):
            marker, action = text.removeprefix("echo "), "echo"
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.scripted.record(marker, body=body, headers=headers)
        if action == "too-long":
            self._error(400, "the prompt is longer than the context", "context_length_exceeded")
        elif body.get("stream"):
            self._stream(marker, action, body)
        else:
            self._whole(marker, action, body)

    def _whole(self, marker, action, body):
        if action == "hold":
            self._hold(marker, lambda: None)
            return
        message = {"role": "assistant", "content": marker if action == "echo" else GREETING}
        reason = "stop"
        if action == "tool":
            calls = [{"id": "call_1", "type": "function", "function": _call(body)}]
            message = {"role": "assistant", "content": None, "tool_calls": calls}
            reason = "tool_calls"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reason}
        head = {"id": "chatcmpl-1", "object": "chat.completion", "created": 1}
        head["model"] = self.scripted.model
        answer = {**head, "choices": [choice], "usage": USAGE}
        self._json(200, answer, share=0.5 if action == "cut" else 1.0)

    def _stream(self, marker, action, body):
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        try:
            self._delta({"role": "assistant", "content": ""})
            if action == "cut":
                for number in range(CUT_AFTER):
                    self._delta({"content": f"word{number} "})
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            if action == "hold":
                self._delta({"content": f"{marker[::-1]} "})
                self._hold(marker, lambda: self._delta({"content": "word "}))
                return
            reason = "stop"
            if action == "tool":
                reason = "tool_calls"
                self._delta({"tool_calls": _call_deltas(body)[0]})
                self._delta({"tool_calls": _call_deltas(body)[1]})
            elif action == "echo":
                for start in range(0, len(marker), 7):
                    self._delta({"content": marker[start : start + 7]})
            else:
                for word in GREETING.split(" "):
                    self._delta({"content": word if word == "Hello" else f" {word}"})
            self._event([{"index": 0, "delta": {}, "finish_reason": reason}])
            self._event([], usage=USAGE)
            self._chunk(b"data: [DONE]\n\n")
            self._chunk(b"")
        except OSError:
            self.close_connection = True
            self.scripted.record(marker, left=time.time())

    def _hold(self, marker, say):
        end = time.monotonic() + HOLD_LIMIT
        while time.monotonic() < end:
            say()
            readable, _, _ = select.select([self.connection], [], [], 0.05)
            if readable and not self.connection.recv(1, socket.MSG_PEEK):
                break
        self.close_connection = True
        self.scripted.record(marker, left=time.time())

    def _delta(self, delta):
        self._event([{"index": 0, "delta": delta, "finish_reason": None}])

    def _event(self, choices, **more):
        head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1}
        event = {**head, "model": self.scripted.model, "choices": choices, **more}
        self._chunk(b"data: " + json.dumps(event).encode() + b"\n\n")

    def _chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _error(self, status, message, code):
        kind = "invalid_request_error"
        error = {"message": message, "type": kind, "param": None, "code": code}
        self._json(status, {"error": error})

    def _json(self, status, value, share=1.0):
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[: int(len(data) * share)])
        self.close_connection |= share < 1.0


def _last_user_text(body):
    texts = [m["content"] for m in body.get("messages", []) if m.get("role") == "user"]
    return texts[-1] if texts and isinstance(texts[-1], str) else ""


def _call(body):
    name = body["tools"][0]["function"]["name"]
    return {"name": name, "arguments": '{"city":"Paris"}'}


def _call_deltas(body):
    call = _call(body)
    first = {"name": call["name"], "arguments": call["arguments"][:5]}
    begin = [{"index": 0, "id": "call_1", "type": "function", "function": first}]
    return begin, [{"index": 0, "function": {"arguments": call["arguments"][5:]}}]
