/** One chat's messages as the page holds them, on an engine that is made up. */

import { expect, test } from "vitest";
import type { Chat, Engine, Failure, Message, Page, PageRequest, Photo, Reply } from "../src/client/api";
import { App } from "../src/model/app";
import type { Conversation } from "../src/model/conversation";
import type { Platform } from "../src/platform";

const MIB = 1024 * 1024;
/** As many rows as the window may have, and a page. */
const MOST = 1_080;
const ENDED: Failure = { code: "internal", params: {} };

function app(engine: Partial<Engine>, later: Platform["later"] = () => () => {}): App {
  const platform: Partial<Platform> = { remembered: () => null, later, closeNotes: async () => {}, now: () => 1_000 };
  return new App({ engine: engine as Engine, listen: () => {} }, platform as Platform);
}

/** A chat in which somebody writes: what the engine has of it, and a clock that is moved by hand. */
class Chatter {
  readonly all: Message[] = [];
  readonly app: App;
  readonly conversation: Conversation;
  /** How often the window changed. */
  updates = 0;
  /** Pages wait here to be given out, in whatever order; null: they are given at once. */
  held: (() => void)[] | null = null;
  /** The engine was ended, and has not begun anew. */
  ended = false;
  #waiting: (() => void)[] = [];

  constructor(engine: Partial<Engine> = {}) {
    const later = (_ms: number, run: () => void) => {
      this.#waiting.push(run);
      return () => {
        this.#waiting = this.#waiting.filter((each) => each !== run);
      };
    };
    const messages = async (_chat: string, request: PageRequest): Promise<Page> => {
      const page = this.#page(request);
      await new Promise<void>((give) => (this.held ? this.held.push(give) : give()));
      if (this.ended) throw ENDED;
      return page;
    };
    const setChat = async (chat: string, settings: object) => ({ id: chat, ...settings }) as Chat;
    this.app = app({ messages, setChat, ...engine }, later);
    this.conversation = this.app.conversation("chat");
    this.conversation.messages.subscribe(() => {
      this.updates += 1;
    });
    this.write(100, false);
  }

  #page({ before = Number.MAX_SAFE_INTEGER, after, around, limit }: PageRequest): Page {
    if (around) return this.#page({ after: around - limit / 2 - 1, limit });
    const some = this.all.filter((each) => each.n < before && each.n > (after ?? 0));
    const messages = after === undefined ? some.slice(-limit) : some.slice(0, limit);
    const last = messages.at(-1)?.n ?? after ?? 0;
    return {
      messages,
      before: (messages[0]?.n ?? 1) > 1,
      after: before === Number.MAX_SAFE_INTEGER && last < (this.all.at(-1)?.n ?? 0),
    };
  }

  /** So many messages more; *told*: the page hears of each. */
  write(count: number, told = true): void {
    for (let at = 0; at < count; at += 1) {
      const n = this.all.length + 1;
      const message = { n, id: `id-${n}`, sender: "her", chat: "chat", kind: "text", unread: true } as Message;
      this.all.push(message);
      if (told) this.conversation.received(message);
    }
  }

  /** A message of one's own that is stored, and that nobody has heard of yet. */
  store(text: string, rest: object = {}): Message {
    const n = this.all.length + 1;
    const own = { n, id: `id-${n}`, sender: "me", chat: "chat", kind: "text", text, mine: true, sentAtMs: 1_000 };
    const message = { ...own, ...rest } as Message;
    this.all.push(message);
    return message;
  }

  /** Everything that waits for its time has it. */
  pass(): void {
    for (const run of this.#waiting.splice(0)) run();
  }

  get rows(): number[] {
    return this.conversation.messages.value.map(({ n }) => n);
  }
}

/** From *first* to *last*. */
function numbers(first: number, last: number): number[] {
  return Array.from({ length: last - first + 1 }, (_, at) => first + at);
}

function photo(n: number): Message {
  return { n, id: `id-${n}`, sender: "her", chat: "chat", kind: "media" } as Message;
}

test("pictures that were looked at are let go of when they are many, or large together", async () => {
  let size = 1000;
  const asked: string[] = [];
  const media = async ({ id }: { id: string }): Promise<Blob> => {
    asked.push(id);
    return { size } as Blob;
  };
  const conversation = app({ media }).conversation("chat");
  const look = async (n: number): Promise<boolean> => {
    const before = asked.length;
    await conversation.media(photo(n));
    await Promise.resolve();
    return asked.length > before;
  };
  for (let n = 1; n <= 50; n += 1) expect(await look(n)).toBe(true);
  expect([await look(50), await look(11), await look(10)]).toEqual([false, false, true]);

  size = 15 * MIB;
  for (let n = 101; n <= 110; n += 1) await look(n);
  expect([await look(110), await look(107)]).toEqual([false, false]);
  expect(await look(106), "five times 15 MiB is more than is kept").toBe(true);

  size = 100 * MIB;
  await look(200);
  expect(await look(200), "the newest is kept, however large").toBe(false);
  expect(await look(110)).toBe(true);
});

test("5,000 messages at once change the window a few times, and whoever is at its end keeps the newest of them", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  await conversation.open();
  expect(chatter.rows).toEqual(numbers(61, 100));
  conversation.stands(90, true);
  const before = chatter.updates;
  chatter.write(1);
  expect(chatter.rows.at(-1), "one alone is shown at once").toBe(101);
  chatter.write(4_999);
  chatter.pass();
  expect(chatter.updates - before).toBeLessThanOrEqual(30);
  expect(chatter.rows.length).toBeLessThanOrEqual(MOST);
  expect(chatter.rows).toEqual(numbers(chatter.rows[0] ?? 0, 5_100));
  expect([conversation.before.value, conversation.after.value, conversation.below.value]).toEqual([true, false, 5_000]);
  expect(conversation.arrived.value?.n).toBe(5_100);

  for (let round = 0; round < 20; round += 1) {
    chatter.write(100);
    chatter.pass();
    expect(chatter.rows.length).toBeLessThanOrEqual(MOST);
  }
  const [first = 0] = chatter.rows;
  await conversation.older();
  expect(chatter.rows, "what went is loaded again").toEqual(numbers(first - 80, 7_100));
});

test("whoever reads further up loses no row in sight, and finds what arrived in the meantime when they come down", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  await conversation.open();
  conversation.stands(65, false);
  chatter.write(5_000);
  chatter.pass();
  expect(chatter.rows[0]).toBe(61);
  expect(chatter.rows.length).toBeLessThanOrEqual(MOST);
  expect(chatter.rows).toEqual(numbers(61, chatter.rows.at(-1) ?? 0));
  expect([conversation.after.value, conversation.below.value]).toEqual([true, 5_000]);
  while (conversation.after.value) {
    const last = chatter.rows.at(-1) ?? 0;
    const inSight = last - 10;
    conversation.stands(inSight, false);
    await conversation.newer();
    expect(chatter.rows.at(-1)).toBeGreaterThan(last);
    expect(chatter.rows).toContain(inSight - 20);
    expect(chatter.rows).toEqual(numbers(chatter.rows[0] ?? 0, chatter.rows.at(-1) ?? 0));
    expect(chatter.rows.length).toBeLessThanOrEqual(MOST);
  }
  expect(chatter.rows.at(-1)).toBe(5_100);
  chatter.write(1);
  chatter.pass();
  expect(chatter.rows.at(-1)).toBe(5_101);
});

test("a chat that nobody looks at grows to a bound, and is opened at what is unread", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  await conversation.open();
  conversation.stands(90, true);
  conversation.close();
  chatter.write(5_000);
  chatter.pass();
  expect(chatter.rows.length).toBeLessThanOrEqual(MOST);
  await conversation.open();
  expect(chatter.rows).toEqual(numbers(5_061, 5_100));
});

test("what arrives while a page is made is not lost, and one that changes before it is shown is shown as it is now", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  await conversation.open();
  conversation.stands(65, false);
  chatter.write(2_000);
  chatter.pass();
  const page = conversation.toEnd();
  chatter.write(3); // the page knows nothing of them
  await page;
  chatter.pass();
  while (conversation.after.value) await conversation.newer();
  expect(chatter.rows.at(-1)).toBe(2_103);

  chatter.write(2);
  const last = conversation.messages.value.at(-1);
  expect(last?.n).toBe(2_104);
  conversation.changed({ ...(chatter.all.at(-1) as Message), text: "now" });
  chatter.pass();
  expect(conversation.messages.value.at(-1)).toMatchObject({ n: 2_105, text: "now" });
  conversation.received(chatter.all.at(-1) as Message);
  chatter.pass();
  expect(chatter.rows.slice(-2), "once").toEqual([2_104, 2_105]);
});

test("after the engine began anew, the window shows what changed in it, and whatever came meanwhile is found", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  await conversation.open();
  chatter.write(10, false);
  chatter.all[70] = { ...(chatter.all[70] as Message), text: "now" };
  await conversation.reload();
  expect(chatter.rows).toEqual(numbers(61, 110));
  expect(conversation.messages.value.find(({ n }) => n === 71)?.text).toBe("now");
  expect(conversation.after.value).toBe(false);

  chatter.write(500, false);
  await conversation.reload();
  expect(chatter.rows, "without a hole").toEqual(numbers(61, 150));
  expect(conversation.after.value).toBe(true);
  chatter.write(1);
  chatter.pass();
  while (conversation.after.value) await conversation.newer();
  expect(chatter.rows).toEqual(numbers(61, 611));
});

test("a page that was asked for before the window became another one leaves no hole in it", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  chatter.write(900, false);
  const expectNoHole = () => expect(chatter.rows).toEqual(numbers(chatter.rows[0] ?? 0, chatter.rows.at(-1) ?? 0));
  const held: (() => void)[] = [];
  const give = async (at: number, ...asked: Promise<unknown>[]) => {
    held[at]?.();
    await asked[at];
  };
  const orders = [
    [0, 1],
    [1, 0],
  ];
  const ways = {
    older: () => conversation.older(),
    newer: () => conversation.newer(),
    reload: () => conversation.reload(),
  };
  for (const [name, load] of Object.entries(ways)) {
    for (const order of orders) {
      for (const wishes of [
        [load, () => conversation.toEnd()],
        [() => conversation.toEnd(), load],
      ]) {
        await conversation.open(500);
        chatter.held = held;
        const asked = wishes.map((wish) => wish());
        chatter.held = null;
        for (const at of order) await give(at, ...asked);
        held.splice(0);
        expectNoHole();
        expect([name, chatter.rows.at(-1)]).toEqual([name, 1_000]);
        expect(conversation.after.value).toBe(false);
        expect(conversation.before.value).toBe(true);
      }
    }
  }

  for (const order of orders) {
    await conversation.open(500);
    chatter.held = held;
    const asked = [conversation.open(200), conversation.toEnd()];
    chatter.held = null;
    for (const at of order) await give(at, ...asked);
    held.splice(0);
    expect(chatter.rows, "what was wanted last").toEqual(numbers(961, 1_000));
  }

  conversation.stands(990, true);
  while ((chatter.rows[0] ?? 0) > 20) await conversation.older();
  chatter.held = held;
  const page = conversation.older();
  chatter.held = null;
  chatter.write(5_000);
  chatter.pass();
  await give(0, page);
  expectNoHole();
});

test("what was heard of first after the engine began anew hides nothing that came before it", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  chatter.all.splice(0);
  await conversation.open();
  expect(chatter.rows).toEqual([]);
  chatter.write(70, false);
  chatter.write(1);
  await conversation.reload();
  while (conversation.before.value) await conversation.older();
  expect(chatter.rows).toEqual(numbers(1, 71));
});

test("a chat that could not be loaded is loaded once the engine is there again", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  chatter.ended = true;
  await conversation.open(50);
  expect([conversation.loaded.value, conversation.failure.value]).toEqual([false, ENDED]);
  chatter.ended = false;
  await conversation.reload();
  expect([conversation.loaded.value, conversation.failure.value]).toEqual([true, null]);
  expect(conversation.target.value).toEqual({ n: 50, flash: true });
});

test("a message that is answered is found although a page is on its way, and what went wrong is told as it is", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  await conversation.open();
  const held: (() => void)[] = [];
  chatter.held = held;
  const older = conversation.older();
  const going = conversation.toReply({ id: "id-5", sender: "her", kind: "text" } as Reply);
  chatter.held = null;
  held[0]?.();
  await older;
  expect(await going).toBe(null);
  expect(conversation.target.value).toEqual({ n: 5, flash: true });

  chatter.write(500, false);
  await conversation.toEnd();
  await conversation.open(590);
  chatter.ended = true;
  expect(await conversation.toReply({ id: "id-4", sender: "her", kind: "text" } as Reply)).toEqual(ENDED);
  chatter.ended = false;
  expect(await conversation.toReply({ id: "id-4", sender: "her", kind: "text" } as Reply)).toBe(null);
  const unknown = { code: "message_unknown", params: {} };
  expect(await conversation.toReply({ id: "id-0", sender: "her", kind: "text" } as Reply)).toEqual(unknown);
});

test("what is sent does not come back as a draft, and one that could not be kept is kept later", async () => {
  const kept: string[] = [];
  const held: (() => void)[] = [];
  let fails = false;
  const setChat = async (id: string, { draft }: { draft?: string }) => {
    kept.push(draft ?? "");
    const failing = fails;
    await new Promise<void>((give) => held.push(give));
    if (failing) throw ENDED;
    return { id, draft } as Chat;
  };
  const chatter = new Chatter({
    setChat,
    sendText: async (_chat, text) => chatter.store(text),
    typing: async () => {},
  });
  const { conversation } = chatter;
  chatter.app.put({ id: "chat", draft: "" } as Chat);
  await conversation.open();
  conversation.write("hello");
  chatter.pass();
  expect(kept).toEqual(["hello"]); // the engine is busy
  await conversation.send();
  expect(kept).toEqual(["hello", ""]);
  for (const give of held.splice(0)) give();
  await new Promise((done) => setTimeout(done));

  fails = true;
  conversation.write("to be continued");
  chatter.pass();
  for (const give of held.splice(0)) give();
  await new Promise((done) => setTimeout(done));
  fails = false;
  await conversation.reload();
  expect(kept.slice(2)).toEqual(["to be continued", "to be continued"]);
  conversation.close();
  expect(kept.length, "once").toBe(4);
});

test("a draft that changed elsewhere is taken over, unless somebody writes here or it is one's own on its way", async () => {
  const held: (() => void)[] = [];
  const setChat = async (id: string, { draft }: { draft?: string }) => {
    await new Promise<void>((give) => held.push(give));
    return { id, draft } as Chat;
  };
  const chatter = new Chatter({ setChat });
  const { conversation } = chatter;
  const told = (draft: string) => chatter.app.put({ id: "chat", draft } as Chat);
  told("from before");
  await conversation.open();
  expect(conversation.draft.value).toBe("from before");
  conversation.close();
  told("");
  expect(conversation.draft.value, "it was sent in another tab").toBe("");
  await conversation.open();
  told("one");
  expect(conversation.draft.value).toBe("one");

  conversation.write("one and");
  told("another");
  expect(conversation.draft.value, "somebody writes here").toBe("one and");
  chatter.pass();
  told("another");
  expect(conversation.draft.value, "what is written here is on its way").toBe("one and");
  for (const give of held.splice(0)) give();
  await new Promise((done) => setTimeout(done));
  told("and a third");
  expect(conversation.draft.value).toBe("and a third");
});

test("what a draft answers is kept with it, and found again", async () => {
  const kept: object[] = [];
  const setChat = async (id: string, settings: object) => {
    kept.push(settings);
    return { id, ...settings } as Chat;
  };
  const chatter = new Chatter({
    setChat,
    sendText: async (_chat, text) => chatter.store(text),
    typing: async () => {},
  });
  const { conversation } = chatter;
  const [first, second] = [chatter.store("one"), chatter.store("two")];
  chatter.app.put({ id: "chat", draft: "well", draftReply: first } as unknown as Chat);
  await conversation.open();
  expect(conversation.reply.value).toEqual(first);
  expect(conversation.answers.value, "not chosen here").toBe(0);
  conversation.answer(second);
  chatter.pass();
  const ref = { chat: "chat", id: second.id, sender: second.sender };
  expect(kept).toEqual([{ draft: "well", draftReply: ref }]);
  await conversation.send();
  expect(kept.slice(1)).toEqual([{ draft: "", draftReply: null }]);
});

test("a draft is kept while somebody still types, and at once when the page is left", async () => {
  const kept: (string | undefined)[] = [];
  let slow = Promise.resolve();
  const setChat = async (id: string, { draft }: { draft?: string }) => {
    kept.push(draft);
    await slow;
    return { id, draft } as Chat;
  };
  const answered = () => new Promise((done) => setTimeout(done));
  const chatter = new Chatter({ setChat });
  await chatter.conversation.open();
  chatter.conversation.write("h");
  chatter.conversation.write("he");
  chatter.pass();
  expect(kept).toEqual(["he"]);
  await answered();
  chatter.pass();
  expect(kept, "nothing new").toEqual(["he"]);

  let answer = () => {};
  slow = new Promise((done) => (answer = done));
  for (const text of ["hel", "hell", "hello"]) {
    chatter.conversation.write(text);
    chatter.pass();
  }
  expect(kept, "one on its way").toEqual(["he", "hel"]);
  answer();
  await answered();
  chatter.pass();
  await answered();
  expect(kept).toEqual(["he", "hel", "hello"]);
  chatter.conversation.write("hello you");
  chatter.app.leave();
  chatter.app.leave();
  await answered();
  chatter.pass();
  expect(kept.slice(3)).toEqual(["hello you"]);
});

test("a text that cannot be sent stands before the one that is being written", async () => {
  let refuse = (_failure: Failure) => {};
  const sendText = () => new Promise<Message>((_, reject) => (refuse = reject));
  const chatter = new Chatter({ sendText, typing: async () => {} });
  const { conversation } = chatter;
  await conversation.open();
  for (const failure of [ENDED, { code: "storage", params: {} } as Failure]) {
    conversation.write("one");
    const sent = conversation.send();
    conversation.write("two");
    refuse(failure);
    expect(await sent).toEqual(failure);
    expect(conversation.draft.value).toBe("one\ntwo");
    expect(chatter.rows).toEqual(numbers(61, 100));
  }
});

test("a photo that cannot be sent stays at the end, and is sent again at a tap", async () => {
  const full: Failure = { code: "storage", params: {} };
  let failure: Failure | null = full;
  const captions: string[] = [];
  const sendPhoto = async (_chat: string, _photo: Photo, caption: string): Promise<Message> => {
    captions.push(caption);
    if (failure) throw failure;
    return chatter.store(caption, { kind: "media", media: { size: 1 } });
  };
  const chatter = new Chatter({ sendPhoto });
  const { conversation } = chatter;
  chatter.write(100, false);
  await conversation.open();
  const sending = { data: { type: "image/jpeg", size: 1 } as Blob, width: 1, height: 1, name: "" } as Photo;
  expect(await conversation.sendPhoto(sending, "the sea")).toEqual(full);
  const last = () => conversation.messages.value.at(-1) as Message;
  expect(last()).toMatchObject({ kind: "media", text: "the sea", state: "failed", failure: full });
  await conversation.open(20);
  expect(conversation.messages.value.every(({ state }) => state !== "failed")).toBe(true);
  await conversation.toEnd();
  chatter.write(1);
  chatter.pass();
  conversation.received(chatter.store("the sea", { kind: "media", media: { size: 2 } })); // from another tab
  failure = ENDED;
  expect(await conversation.retry(last()), "that was another one").toEqual(ENDED);
  failure = full;
  conversation.received(chatter.store("the sea", { kind: "media", media: { size: 1 } }));
  expect(last()).toMatchObject({ text: "the sea", state: "failed" });
  expect(await conversation.media(last())).toBe(sending.data);

  expect(await conversation.retry(last())).toEqual(full);
  expect(last()).toMatchObject({ text: "the sea", state: "failed" });
  failure = null;
  expect(await conversation.retry(last())).toBe(null);
  expect(captions).toEqual(["the sea", "the sea", "the sea", "the sea"]);
  expect(chatter.rows).toEqual(numbers(161, 204));
});

test("what was sent is sent, although its page could not be loaded", async () => {
  const chatter = new Chatter({ sendText: async (_chat, text) => chatter.store(text), typing: async () => {} });
  const { conversation } = chatter;
  chatter.write(100, false);
  await conversation.open(20);
  expect(conversation.after.value).toBe(true);
  chatter.ended = true;
  conversation.write("hello");
  expect(await conversation.send()).toBe(null);
  expect(conversation.draft.value).toBe("");
});

test("what the engine had stored before it was ended is not sent twice, and what it had not is not lost", async () => {
  const chatter = new Chatter({
    typing: async () => {},
    sendText: async (_chat, text) => {
      if (stores) {
        const message = chatter.store(text);
        if (tells) conversation.received(message);
      }
      throw ENDED;
    },
  });
  let stores = true;
  let tells = false;
  const { conversation } = chatter;
  chatter.store("well", { sentAtMs: 999 });
  await conversation.open();
  const send = (text: string) => {
    conversation.write(text);
    return conversation.send();
  };
  expect(await send("well")).toBe(null);
  tells = true;
  expect(await send("well")).toBe(null);
  tells = false;
  expect(chatter.rows).toEqual(numbers(62, 103));

  const first = send("well");
  stores = false;
  const second = send("well");
  await conversation.reload();
  expect([await first, await second]).toEqual([null, ENDED]);
  expect(chatter.rows).toEqual(numbers(62, 104));
  expect(conversation.draft.value).toBe("well");
});

test("what was read out is not read out again to whoever comes back", async () => {
  const chatter = new Chatter();
  const { conversation } = chatter;
  await conversation.open();
  chatter.write(1);
  expect(conversation.arrived.value?.n).toBe(101);
  conversation.close();
  chatter.write(1);
  chatter.pass();
  await conversation.open();
  expect(conversation.arrived.value).toBe(null);
});

test("what is seen before the chat has counted it, and what could not be marked, is marked as read all the same", async () => {
  const waiting: (() => void)[] = [];
  const later = (_ms: number, run: () => void) => {
    waiting.push(run);
    return () => {};
  };
  const pass = () => {
    for (const run of waiting.splice(0)) run();
  };
  const marked: number[] = [];
  let fails = true;
  const markRead = async (_chat: string, upto: number): Promise<void> => {
    marked.push(upto);
    if (fails) throw new Error("the engine begins anew");
  };
  const page = app({ markRead }, later);
  const counts = (unread: number) => page.put({ id: "chat", state: "open", unread, firstUnread: unread && 7 } as Chat);
  const conversation = page.conversation("chat");

  counts(0);
  conversation.seen(7);
  pass();
  expect(marked, "there is nothing to mark").toEqual([]);
  counts(1);
  conversation.seen(7);
  conversation.seen(7);
  pass();
  expect(marked, "once for all that is seen meanwhile").toEqual([7]);
  fails = false;
  conversation.seen(7);
  pass();
  expect(marked).toEqual([7, 7]);
  counts(0);
  conversation.seen(7);
  pass();
  expect(marked).toEqual([7, 7]);
});
