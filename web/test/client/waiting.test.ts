/** What waits in the outbox, and for how long: no loop turns while nothing can be done, and no clock holds it up. */

import { expect, test } from "vitest";
import { unhex } from "../../src/bytes";
import { type Tab, useWorld } from "./tabs";

const world = useWorld();

/** The chat with *name* can be written to, or cannot for now. */
async function stand(tab: Tab, name: string, standing: "current" | "rejoin"): Promise<void> {
  const chat = unhex((await tab.chatWith(name)).id);
  await tab.store.write(async (tx) => {
    const groupId = (await tx.chat(chat))?.groupId;
    if (groupId) await tx.setStanding(groupId, standing, Date.now());
    await tx.hurryOutgoing(chat, Date.now());
  });
}

test("what waits behind a message that cannot be sent now is not looked at again and again", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await alice.say("Bob", "first");
  await alice.settled("Bob", "first", "delivered");
  await stand(alice, "Bob", "rejoin");
  for (const text of ["second", "third", "fourth"]) await alice.say("Bob", text);
  const dueMs = () => alice.store.read((tx) => tx.outboxDueMs());
  await alice.until(async () => ((await dueMs()) ?? 0) > Date.now(), "an outbox that rests");
  await stand(alice, "Bob", "current");
  await alice.settled("Bob", "fourth", "delivered");
  expect(await bob.texts("Alice")).toEqual(["first", "second", "third", "fourth"]);
});

test("a clock that was ahead and is set back holds nothing up", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await alice.say("Bob", "before");
  await alice.settled("Bob", "before", "delivered");
  await stand(alice, "Bob", "rejoin");
  await alice.say("Bob", "under the wrong clock");
  const inAYearMs = Date.now() + 365 * 86_400_000;
  await alice.store.write(async (tx) => {
    for (const { n } of await tx.outgoing()) await tx.postponeOutgoing(n, inAYearMs);
    await tx.addChore("walk", new Uint8Array(32), new Uint8Array(), inAYearMs);
  });
  const chat = unhex((await alice.chatWith("Bob")).id);
  await alice.store.write(async (tx) => {
    const groupId = (await tx.chat(chat))?.groupId;
    if (groupId) await tx.setStanding(groupId, "current", Date.now());
  });
  await alice.close();
  const again = await alice.browser.open();
  await again.settled("Bob", "under the wrong clock", "delivered");
  await again.until(async () => (await again.store.read((tx) => tx.chores("walk"))).length === 0, "the chore");
  expect(await bob.texts("Alice")).toEqual(["before", "under the wrong clock"]);
});
