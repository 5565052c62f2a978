"""`python -m tests.performance.bare_route FILE PORT`: the least that Litestar and uvicorn can do with these bytes."""

import sys
from pathlib import Path

import uvicorn
from litestar import Litestar, MediaType, Response
from litestar import get as route

PAYLOAD = Path(sys.argv[1]).read_bytes()


@route("/")
async def payload() -> Response[bytes]:
    return Response(PAYLOAD, media_type=MediaType.JSON)


if __name__ == "__main__":
    uvicorn.run(Litestar([payload], openapi_config=None), port=int(sys.argv[2]), access_log=False, log_level="warning")
