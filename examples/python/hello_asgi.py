"""An ASGI application without a framework: a page, JSON, a stream, a websocket echo.

make run, or: uvicorn --loop zloop:new_event_loop --app-dir examples/python hello_asgi:app
"""

import asyncio
import json
import platform

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>zloop</title>
<style>body {{ font: 1.1em/1.6 system-ui; max-width: 34em; margin: 4em auto; padding: 0 1em }}
#said {{ font-family: monospace }}</style>
<h1>Hello from zloop</h1>
<p>Served by <b>{loop}</b> on <b>{backend}</b>, {python}.</p>
<p>Also here: <a href="/json">/json</a>, <a href="/stream">/stream</a>, and a websocket that says
what you say: <input placeholder="say it" autofocus> <span id="said"></span></p>
<script>
const echo = new WebSocket(`ws://${{location.host}}/ws`);
echo.onmessage = event => document.querySelector("#said").textContent = event.data;
document.querySelector("input").oninput = event => echo.send(event.target.value);
</script></html>
"""


def about():
    """What serves this request."""
    loop = asyncio.get_running_loop()
    return {
        "loop": f"{type(loop).__module__.partition('.')[0]}.{type(loop).__name__}",
        "backend": getattr(loop, "backend", "a selector"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
    }


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(receive, send)
    elif scope["type"] == "websocket":
        await echo(scope, receive, send)
    elif scope["path"] == "/":
        await respond(send, PAGE.format(**about()), "text/html; charset=utf-8")
    elif scope["path"] == "/json":
        await respond(send, json.dumps(about()), "application/json")
    elif scope["path"] == "/stream":
        await stream(send)
    else:
        await respond(send, "There is no such page.\n", status=404)


async def lifespan(receive, send):
    while True:
        phase = (await receive())["type"]
        await send({"type": f"{phase}.complete"})
        if phase == "lifespan.shutdown":
            return


async def start(send, status, content_type, *more):
    headers = [(b"content-type", content_type.encode()), *more]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def respond(send, text, content_type="text/plain; charset=utf-8", status=200):
    body = text.encode()
    await start(send, status, content_type, (b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.body", "body": body})


async def stream(send):
    """Ten lines, one at a time; without a content-length the server sends chunks."""
    await start(send, 200, "text/plain; charset=utf-8")
    for number in range(1, 11):
        line = f"chunk {number}\n".encode()
        await send({"type": "http.response.body", "body": line, "more_body": True})
        await asyncio.sleep(0.1)
    await send({"type": "http.response.body"})


async def echo(scope, receive, send):
    await receive()  # websocket.connect
    if scope["path"] != "/ws":
        await send({"type": "websocket.close"})  # answers 403
        return
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] == "websocket.receive":
        said = {key: event[key] for key in ("text", "bytes") if event.get(key) is not None}
        await send({"type": "websocket.send", **said})
