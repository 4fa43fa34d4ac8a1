"""What tests of an async program need: is its event loop held up, does anything stay behind?

    async def test_upload(client):
        with LoopBlockDetector(threshold=0.05):
            await client.post("/upload", content=photo)

    def test_shutdown():
        with no_leaks():
            run_the_whole_program()

Nothing here needs pytest, and nothing of `offload` imports this. As fixtures:

    @pytest.fixture(autouse=True)
    async def loop_stays_free():
        with LoopBlockDetector():
            yield
"""

from offload.testing._footprint import Footprint, LeakError, no_leaks
from offload.testing._loop_blocks import LoopBlock, LoopBlockDetector, LoopBlockedError

__all__ = [
    "Footprint",
    "LeakError",
    "LoopBlock",
    "LoopBlockDetector",
    "LoopBlockedError",
    "no_leaks",
]

# A traceback names the module that users import them from.
LeakError.__module__ = LoopBlockedError.__module__ = __name__
