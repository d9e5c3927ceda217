"""The helpers that tests of bots rely on: a clock that only moves when told."""

import asyncio

from taube.testing import FakeClock


def test_sleepers_wake_in_order_when_the_clock_has_advanced_far_enough() -> None:
    async def main() -> None:
        clock, woken = FakeClock(100.0), []

        async def sleeper(name: str, seconds: float) -> None:
            await clock.sleep(seconds)
            woken.append((name, clock()))

        tasks = [asyncio.create_task(sleeper("late", 10)), asyncio.create_task(sleeper("early", 5))]
        await asyncio.sleep(0)
        clock.advance(4.9)
        await asyncio.sleep(0)
        assert woken == []
        clock.advance(0.1)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert woken == [("early", 105.0)]
        clock.advance(100)
        await asyncio.gather(*tasks)
        assert [name for name, _ in woken] == ["early", "late"]
        assert clock.now_ms() == 205_000

    asyncio.run(main())
