/** Gives the one chat of whoever uses this browser a long history, by the app's own store: what figures.ts opens then. */

import { Store } from "../../../src/client/store";

const AT_ONCE = 500;
const APART_MS = 90_000;
const SAID = [
  "Are you coming tonight?",
  "Yes, I will be there at eight. Shall I bring something?",
  "Some *bread* would be good. And the _old_ board game, if you find it.",
  "👍",
  "Here is the map: https://example.org/map?from=a_b_c&to=home (behind the station).",
  "I will take the train at `17:42`, it should be on time.",
  "Great! Then we have time to cook together before the others come. I thought of the soup from last time.",
  "😂😂",
  "مرحبا! كيف حالك اليوم؟",
  "See you later",
  "Did you hear about the pigeons on the town hall? They have moved in under the roof and nobody has the heart to send them away.",
];

const history = {
  async fill(messages: number): Promise<void> {
    const store = await Store.open();
    const me = await store.read((tx) => tx.meta("account"));
    const [chat] = await store.read((tx) => tx.chats());
    if (!me || !chat?.peer) throw new Error("there is no chat to be filled");
    const { id, peer } = chat;
    const nowMs = Date.now();
    for (let from = 0; from < messages; from += AT_ONCE) {
      await store.write(async (tx) => {
        for (let at = from; at < Math.min(messages, from + AT_ONCE); at += 1) {
          const number = crypto.getRandomValues(new Uint8Array(16));
          const text = at === messages - 1 ? "The newest" : (SAID[at % SAID.length] ?? "");
          const sentAtMs = nowMs - (messages - at) * APART_MS;
          const mine = at % 5 < 2;
          await tx.addMessage(
            id,
            number,
            mine ? me : peer,
            0,
            sentAtMs,
            "text",
            text,
            mine ? "read" : "received",
            false,
          );
        }
      });
    }
    await store.write((tx) => tx.touchChat(id, nowMs));
    await store.close();
  },
};

export type History = typeof history;
Object.assign(globalThis, { filling: history });
