"""A web page with a button that reads a text aloud; the browser plays the speech while it is made.

    pip install -r requirements.txt          # voxspool, fastapi, uvicorn
    uvicorn read_aloud:app                   # in this folder; then open http://127.0.0.1:8000

The button enqueues a job, and an <audio> element plays its MP3. When the user leaves the page or starts another text,
the browser closes the connection, and the job is cancelled. A job without a reader is cancelled after LIVE_S.
"""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, StreamingResponse

from voxspool import AsyncClient, AsyncSpeech, VoxspoolError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

LIVE_S = 30
"""Time after which a job without a reader is cancelled, in seconds."""
WINDOW_S = 60
"""How far a job is spoken ahead of its listener, in seconds of speech."""
PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Read aloud</title>
<p><textarea id="text" rows="12" cols="80">Good morning. The train to Kiel leaves at seven.</textarea>
<p><button id="read">Read aloud</button> <audio id="audio" controls></audio> <output id="problem"></output>
<script>
  read.onclick = async () => {
    const said = await (await fetch("speeches", { method: "POST", body: text.value })).json();
    problem.value = said.problem ?? "";
    if (said.id) { audio.src = `speeches/${said.id}.mp3`; audio.play(); }
  };
</script></html>
"""
cancelling: set[asyncio.Task[str]] = set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Share one client among all requests."""
    async with AsyncClient() as app.state.client:
        yield
        await asyncio.gather(*cancelling, return_exceptions=True)


app = FastAPI(lifespan=lifespan)
app.add_api_route("/", lambda: HTMLResponse(PAGE))


@app.exception_handler(VoxspoolError)
async def explain(_: Request, error: VoxspoolError) -> JSONResponse:
    """Respond with the message of an error: invalid text, no Redis, full queue or unknown job."""
    return JSONResponse({"problem": str(error)}, 422 if error.wrong_value else 503)


@app.post("/speeches")
async def create(request: Request) -> dict[str, str]:
    """Enqueue a text, and return the id of its job."""
    text = (await request.body()).decode(errors="replace")
    speech = await app.state.client.enqueue(text, live_s=LIVE_S, window_s=WINDOW_S)
    return {"id": speech.id}


@app.get("/speeches/{job_id}.mp3")
async def listen(job_id: str) -> StreamingResponse:
    """Stream the MP3 of a job while it is made."""
    speech = app.state.client.speech(job_id)
    await speech.status()  # raises UnknownJobError before the response starts
    return StreamingResponse(sound(speech), media_type="audio/mpeg")


async def sound(speech: AsyncSpeech) -> AsyncIterator[bytes]:
    """Yield MP3 data until the end or until the browser disconnects. Then cancel the job if it has not ended."""
    try:
        async for part in speech.encode("mp3"):
            yield part
    finally:  # in a new task, because the task of this request may be cancelled already
        task = asyncio.create_task(speech.cancel("the browser left"))
        cancelling.add(task)
        task.add_done_callback(cancelling.discard)
