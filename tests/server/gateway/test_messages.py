"""A message's way through a real server: kept, delivered, acknowledged, stored, read later, in order."""

from taube.wire import messages as m


async def test_an_envelope_to_someone_online_is_delivered_and_kept_once_it_is_acknowledged(rig):
    async with rig() as server:
        _, bob = await server.online()
        await bob.next(m.CaughtUp)
        [minted] = await bob.mint()
        alice = await server.connect()
        waiting = alice.post(lambda n: m.Send(n, 0, [minted.address], b"hello"))
        delivered = await bob.next(m.Deliver)
        assert (delivered.number, delivered.serial, delivered.body) == (1, minted.serial, b"hello")
        bob.acknowledge(1)
        assert (await waiting).statuses == bytes([m.STATUS_KEPT])
