"""A server's side of one HTTP request, without a server: every message in the test's hands."""

import json

import anyio

from tests.web.test_starlette import http_scope

DISCONNECT = {"type": "http.disconnect"}


def part(body=b"", *, more=False):
    """Return a message with a part of the request's body."""
    return {"type": "http.request", "body": body, "more_body": more}


class Connection:
    """A server's side of one request: what the client says is handed out in order."""

    def __init__(self, *messages, spec_version="2.3", headers=(), method="GET"):
        self.scope = http_scope(
            asgi={"version": "3.0", "spec_version": spec_version},
            headers=list(headers),
            method=method,
        )
        self._messages = list(messages)
        self._news = anyio.Event()
        self.asked = 0
        self.waiting = 0
        self.most_waiting = 0
        self.sent = []

    @property
    def unread(self):
        return len(self._messages)

    def say(self, *messages):
        """Let the client send more, or leave."""
        self._messages += messages
        news, self._news = self._news, anyio.Event()
        news.set()

    async def receive(self):
        self.asked += 1
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            while not self._messages:
                await self._news.wait()
            if self._messages[0] == DISCONNECT:
                return DISCONNECT  # as often as it is asked for
            return self._messages.pop(0)
        finally:
            self.waiting -= 1

    async def send(self, message):
        self.sent.append(message)
        last = message["type"] == "http.response.body" and not message.get("more_body")
        if last and DISCONNECT not in self._messages:
            self.say(DISCONNECT)  # what uvicorn tells of a request that has been answered

    async def serve(self, app):
        """Handle the request."""
        await app(self.scope, self.receive, self.send)

    @property
    def status(self):
        return next((each["status"] for each in self.sent if "status" in each), None)

    @property
    def body(self):
        return b"".join(each.get("body", b"") for each in self.sent)

    @property
    def json(self):
        return json.loads(self.body)


async def answer(send, body=b"done"):
    """Send a response."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body, "more_body": False})
