/** What an engine owes after a crash, a lost server, a copied profile, a long absence: nothing lost, nothing twice. */

import { openDB } from "idb";
import { expect, test } from "vitest";
import { encodeBase64, hex, NO_BYTES, unhex } from "../../src/bytes";
import { isWord } from "../../src/client/between";
import { parseContactLink } from "../../src/client/contacts";
import { encode } from "../../src/client/content";
import { browserRandom, SUITE_HYBRID } from "../../src/client/e2e";
import { ConnectionLost, Transport } from "../../src/client/transport";
import { RATE_LIMITED, WireError } from "../../src/wire/errors";
import { pack } from "../../src/wire/packing";
import { TestServer } from "../server";
import { Browser, type Tab, useWorld } from "./tabs";

const world = useWorld();

test("what is written while the server is away is sent when it is back, in order and once", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await world.server.stop("SIGKILL");
  for (const text of ["one", "two", "three"]) await alice.say("Bob", text);
  await bob.say("Alice", "meanwhile");
  expect(await alice.history("Bob")).toMatchObject([{ state: "queued" }, { state: "queued" }, { state: "queued" }]);
  await world.server.start();
  alice.account.hurry();
  bob.account.hurry();
  await alice.settled("Bob", "three", "delivered");
  await alice.message("Bob", "meanwhile");
  expect((await bob.texts("Alice")).filter((text) => text !== "meanwhile")).toEqual(["one", "two", "three"]);
  expect([...alice.bugs, ...bob.bugs]).toEqual([]);
});

test("who joins while the server is behind waits as long as it asks, and is in (DEV-45)", async () => {
  const browser = new Browser("Zoe");
  world.browsers.push(browser);
  const invitation = await world.server.invite();
  const joining = browser.join(invitation);
  joining.catch(() => {});
  await world.server.hold(2_500);
  const tab = await joining;
  expect((await tab.account.status()).me?.name).toBe("Zoe");
  expect(tab.bugs).toEqual([]);
});

test("whoever writes without a server makes it be looked for at once", async () => {
  const [alice] = await world.friends("Alice", "Bob");
  await world.server.stop();
  let announcedMs = 0;
  let isEarly = false;
  alice.account.listen((event) => {
    if (event.type !== "connection") return;
    if (event.connection.state === "connecting" && Date.now() < announcedMs - 20) isEarly = true;
    announcedMs = event.connection.retryAtMs;
  });
  await alice.until(async () => {
    if (announcedMs > 0) await alice.say("Bob", "hello?");
    return isEarly;
  }, "an attempt before its time");
  await world.server.start();
});

for (const when of ["before", "after"] as const) {
  test(`a sender that crashes ${when} any commit loses nothing and repeats nothing`, async () => {
    const [alice, bob] = await world.friends("Alice", "Bob");
    let tab = alice;
    let crashes = 0;
    const written: string[] = [];
    for (let at = 1; at <= 4; at++) {
      const text = `crash at ${at}`;
      await tab.until(async () => (await tab.account.status()).connection.caughtUp);
      tab.crashAt(at, when);
      try {
        await tab.say("Bob", text);
        written.push(text);
        await tab.settled("Bob", text, "delivered");
      } catch {
        expect(tab.crashed).toBe(true);
        crashes += 1;
      }
      await tab.die();
      tab = await alice.browser.open();
      if (!written.includes(text) && (await tab.texts("Bob")).includes(text)) written.push(text);
    }
    await tab.say("Bob", "end");
    await tab.settled("Bob", "end", "delivered");
    expect(crashes).toBeGreaterThan(1);
    expect(await bob.texts("Alice")).toEqual([...written, "end"]);
    expect(bob.bugs).toEqual([]);
  });

  test(`a receiver that crashes ${when} any commit loses nothing and repeats nothing`, async () => {
    const [alice, bob] = await world.friends("Alice", "Bob");
    let tab = bob;
    let crashes = 0;
    const written: string[] = [];
    for (let at = 1; at <= 4; at++) {
      await tab.until(async () => (await tab.account.status()).connection.caughtUp);
      tab.crashAt(at, when);
      for (const text of [`${at}a`, `${at}b`]) {
        await alice.say("Bob", text);
        written.push(text);
      }
      await alice.settled("Bob", `${at}b`, "kept");
      await new Promise((resolve) => setTimeout(resolve, 100));
      crashes += Number(tab.crashed);
      await tab.die();
      tab = await bob.browser.open();
    }
    await alice.settled("Bob", written.at(-1) ?? "", "delivered");
    expect(crashes).toBeGreaterThan(1);
    expect(await tab.texts("Alice")).toEqual(written);
    expect(alice.bugs).toEqual([]);
  });
}

test("a copied profile is found out, and goes on as a new device when a person says so", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await alice.say("Bob", "before");
  await alice.settled("Bob", "before", "delivered");
  await world.server.stop();
  await alice.say("Bob", "from both");
  await alice.close();
  await world.server.start();
  bob.account.hurry();
  const copy = await alice.browser.copy();
  world.browsers.push(copy);
  const first = await alice.browser.open();
  await first.say("Bob", "from the first");
  await first.settled("Bob", "from the first", "delivered");
  await bob.account.markRead((await bob.chatWith("Alice")).id, Number.MAX_SAFE_INTEGER);
  await first.settled("Bob", "from both", "read");
  await first.close();
  const second = await copy.open();
  await second.until(async () => (await second.account.status()).phase === "replaced");
  const chat = await second.chatWith("Bob");
  await expect(second.account.sendText(chat.id, "no", null)).rejects.toMatchObject({ code: "replaced" });
  expect(await second.texts("Bob")).toEqual(["before", "from both"]);
  await second.account.takeOver();
  await second.until(async () => !(await second.chatWith("Bob")).waiting, "being let in again");
  await second.say("Bob", "from the second");
  await bob.message("Alice", "from the second");
  for (const [tab, code] of [
    [second, "came_back"],
    [bob, "new_device"],
  ] as const) {
    const told = () => tab.events.some((event) => event.type === "message" && event.message.notice?.code === code);
    await tab.until(async () => told(), `being told: ${code}`);
  }
  await second.settled("Bob", "from both", "read");
  const all = ["before", "from both", "from the first", "from the second"];
  expect(await bob.texts("Alice")).toEqual(all);
  const late = await alice.browser.open();
  await late.until(async () => (await late.account.status()).phase === "replaced");
  expect([...first.bugs, ...second.bugs, ...late.bugs, ...bob.bugs]).toEqual([]);
});

test("a message that never came is asked for, and what nobody understands is kept and shown as such", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  const chat = unhex((await alice.chatWith("Bob")).id);
  const [lost, strange] = [browserRandom(16), browserRandom(16)];
  const raw = await alice.store.write(async (tx) => {
    const sentAtMs = Date.now();
    const sequence = await tx.takeSequence(chat);
    const text = encode({ type: "Text", messageId: lost, sequence, sentAtMs, text: "lost", replyTo: NO_BYTES });
    await tx.archive(chat, sequence, lost, text, sentAtMs);
    const raw = pack([99, strange, await tx.takeSequence(chat), sentAtMs, "of a newer version"]);
    await tx.queueContent(chat, strange, raw, sentAtMs);
    return raw;
  });
  await bob.until(async () => (await bob.history("Alice")).some((message) => message.kind === "unknown"));
  expect((await bob.history("Alice")).map(({ kind, text }) => [kind, text])).toEqual([["unknown", ""]]);
  const sender = unhex((await alice.account.status()).me?.id ?? "");
  const bobs = unhex((await bob.chatWith("Alice")).id);
  const row = await bob.store.read((tx) => tx.message(bobs, strange, sender));
  expect(row?.text).toBe(encodeBase64(raw));
  await bob.message("Alice", "lost");
  expect([...alice.bugs, ...bob.bugs]).toEqual([]);
});

test("a message that cannot be read any more is told in its place, and all else is read, found, answered and sent", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  for (const text of ["the first", "the second", "the third"]) await alice.say("Bob", text);
  await bob.message("Alice", "the third");
  const rows = (await bob.history("Alice")).map(({ n }) => n);
  await bob.close();
  const raw = await openDB(bob.browser.profile.name);
  for (const n of [rows[1] ?? 0, rows[2] ?? 0]) {
    const stored: { d: Uint8Array } = await raw.get("messages", n);
    stored.d[20] = (stored.d[20] ?? 0) ^ 1;
    await raw.put("messages", stored, n);
  }
  const sealed = () => Promise.all(rows.slice(1).map(async (n) => hex((await raw.get("messages", n)).d)));
  const before = await sealed();

  const tab = await bob.browser.open();
  const chat = await tab.chatWith("Alice");
  expect(chat).toMatchObject({ unread: 3, last: { kind: "notice", notice: { code: "damaged" } } });
  const { messages } = await tab.account.messages(chat.id, { around: chat.firstUnread, limit: 50 });
  expect(messages.filter(({ n }) => rows.includes(n)).map(({ text, notice }) => notice?.code ?? text)).toEqual([
    "the first",
    "damaged",
    "damaged",
  ]);
  expect(new Set(messages.map(({ id, sender }) => id + sender)).size).toBe(messages.length);
  const { messages: found } = await tab.account.search("the");
  expect(found.map(({ text }) => text)).toEqual(["the first"]);
  await tab.account.markRead(chat.id, Number.MAX_SAFE_INTEGER);
  expect(await tab.account.chat(chat.id)).toMatchObject({ unread: 0, firstUnread: 0 });
  await alice.settled("Bob", "the first", "read");
  const [first] = messages.filter(({ text }) => text === "the first");
  await tab.account.sendText(chat.id, "an answer", first ?? null);
  await alice.message("Bob", "an answer");
  await alice.say("Bob", "and on");
  await tab.message("Alice", "and on");
  expect(await sealed(), "what is stored of them stays as it is").toEqual(before);
  raw.close();
  expect([...alice.bugs, ...tab.bugs]).toEqual([]);
});

test("a chat that was begun by a last resort gets an address of its own, and both follow the change", async () => {
  const [alice, bob] = await Promise.all([world.someone("Alice"), world.someone("Bob")]);
  const link = (await bob.account.status()).me?.contactLink ?? "";
  const network = new Transport(world.server.origin);
  const keys = await network.anonymous("keys");
  const { address } = parseContactLink(link);
  const claimed = new Set<string>();
  for (let n = 0; n < 9; n++) {
    const claim = (request: number) => ({ type: "ClaimKeyPackage", request, address, suite: SUITE_HYBRID }) as const;
    claimed.add(hex((await keys.expect("KeyPackageClaimed", claim)).keyPackage));
  }
  await network.close();
  expect(claimed.size).toBe(9);
  await alice.account.add(link);
  const request = await bob.chatWith("Alice");
  const chat = unhex(request.id);
  const epoch = async (tab: Tab, of: Uint8Array): Promise<number> =>
    tab.store.read(async (tx) => (await tx.groupsOfChat(of))[0]?.epoch ?? 0);
  const before = await epoch(bob, chat);
  await bob.account.accept(request.id);
  await bob.until(async () => (await epoch(bob, chat)) === before + 1, "the new address");
  const ofAlice = unhex((await alice.chatWith("Bob")).id);
  await alice.until(async () => (await epoch(alice, ofAlice)) === before + 1, "the change");
  await alice.say("Bob", "to the new address");
  await bob.message("Alice", "to the new address");
  await bob.say("Alice", "from it");
  await alice.message("Bob", "from it");
  expect([...alice.bugs, ...bob.bugs]).toEqual([]);
});

test("whoever was away for more than 30 days asks to be let in again, and is", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await alice.say("Bob", "before");
  await alice.settled("Bob", "before", "delivered");
  await alice.close();
  alice.browser.alter = (welcome) => ({ ...welcome, nowMs: welcome.nowMs + 31 * 86_400_000 });
  const tab = await alice.browser.open();
  const isBack = async (): Promise<boolean> => {
    const { messages } = await tab.account.messages((await tab.chatWith("Bob")).id, { limit: 50 });
    return messages.some((message) => message.notice?.code === "came_back");
  };
  await tab.until(isBack, "being let in again");
  await tab.say("Bob", "after");
  await tab.settled("Bob", "after", "delivered");
  expect(await bob.texts("Alice")).toEqual(["before", "after"]);
  expect([...tab.bugs, ...bob.bugs]).toEqual([]);
});

test("after a server was restored, gates are claimed again and the chat goes on", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  const chat = unhex((await alice.chatWith("Bob")).id);
  const change = async (tab: Tab): Promise<void> => {
    const group = await tab.store.read(async (tx) => (await tx.groupsOfChat(chat))[0]);
    await tab.store.write((tx) => tx.addChore("update", group?.id ?? chat, NO_BYTES, Date.now()));
    const isDone = async (): Promise<boolean> =>
      tab.store.read(async (tx) => (await tx.groupsOfChat(chat))[0]?.epoch === (group?.epoch ?? 0) + 1);
    await tab.until(isDone, "the change");
  };
  await change(alice);
  await alice.close();
  alice.browser.alter = (welcome) => ({ ...welcome, generation: new Uint8Array(16) });
  const tab = await alice.browser.open();
  await tab.until(async () => (await tab.account.status()).connection.caughtUp);
  expect(await tab.store.read((tx) => tx.countChores("reclaim"))).toBe(0);
  await change(tab);
  await tab.say("Bob", "still here");
  await bob.message("Alice", "still here");
  expect([...tab.bugs, ...bob.bugs]).toEqual([]);
});

for (const when of ["before", "after"] as const) {
  test(`a photo survives a crash ${when} any commit of its upload, and arrives once`, async () => {
    const [alice, bob] = await world.friends("Alice", "Bob");
    let tab = alice;
    const written: string[] = [];
    for (let at = 1; at <= 3; at++) {
      const caption = `photo ${at}`;
      await tab.until(async () => (await tab.account.status()).connection.caughtUp);
      const chat = await tab.chatWith("Bob");
      const data = new Blob([new Uint8Array(200_000)], { type: "image/jpeg" });
      const photo = { data, width: 1, height: 1, thumbhash: NO_BYTES, name: "" };
      tab.crashAt(at, when);
      await tab.account.sendPhoto(chat.id, photo, caption, null).catch(() => {});
      await new Promise((resolve) => setTimeout(resolve, 100));
      await tab.die();
      tab = await alice.browser.open();
      if ((await tab.texts("Bob")).includes(caption)) written.push(caption);
    }
    for (const caption of written) await tab.settled("Bob", caption, "delivered");
    expect(written.length).toBeGreaterThan(0);
    const arrived = await bob.history("Alice");
    expect(arrived.map((message) => [message.kind, message.text])).toEqual(
      written.map((caption) => ["media", caption]),
    );
    for (const message of arrived) expect((await bob.account.media(message)).size).toBe(200_000);
    expect([...bob.bugs]).toEqual([]);
  });
}

test("a file that could not be fetched is told as not under way, and can be asked for again", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  const data = new Blob([new Uint8Array(50_000)], { type: "image/jpeg" });
  const photo = { data, width: 1, height: 1, thumbhash: NO_BYTES, name: "" };
  await alice.account.sendPhoto((await alice.chatWith("Bob")).id, photo, "fetch me", null);
  const got = await bob.message("Alice", "fetch me");
  const told = () => bob.events.flatMap((event) => (event.type === "changed" ? event.message.media?.state : [])).at(-1);
  await world.server.stop();
  const failing = expect(bob.account.media(got)).rejects.toMatchObject({ code: "offline" });
  await bob.until(() => told() === "loading");
  await failing;
  await bob.until(() => told() === "remote", "word that nothing is under way");
  await world.server.start();
  expect((await bob.account.media(got)).size).toBe(50_000);
  expect([...alice.bugs, ...bob.bugs]).toEqual([]);
});

test("joining is repeated with the same invitation after its answer was lost", async () => {
  const browser = new Browser("Alice");
  world.browsers.push(browser);
  const invitation = await world.server.invite();
  const ids = new Set<string>();
  for (let at = 1; at <= 4; at++) {
    const tab = await browser.open();
    tab.crashAt(at, "before");
    await tab.account.join(invitation, "Alice", null).catch(() => expect(tab.crashed).toBe(true));
    const account = await tab.browser.stored("account");
    if (account !== null) ids.add(hex(account));
    await tab.die();
  }
  const tab = await browser.open();
  ids.add((await tab.account.join(invitation, "Alice", null)).id);
  expect(ids.size).toBe(1);
  expect((await tab.account.status()).phase).toBe("ready");
  const bob = await world.someone("Bob");
  await bob.account.add((await tab.account.status()).me?.contactLink ?? "");
  await tab.chatWith("Bob");
});

/** The contact link in the last status that the screens were told of their own accord. */
function toldLink(tab: Tab): string | null {
  const told = tab.events.flatMap((event) => (event.type === "status" ? [event.status] : []));
  return told.at(-1)?.me?.contactLink ?? null;
}

for (const when of ["before", "after"] as const) {
  test(`whoever joined and was cut off ${when} any commit is told the contact link once it is made`, async () => {
    let finished = false;
    for (let at = 1; !finished; at++) {
      const browser = new Browser("Alice");
      world.browsers.push(browser);
      const invitation = await world.server.invite();
      const cut = await browser.open();
      cut.crashAt(at, when);
      const joining = cut.account.join(invitation, "Alice", null).catch(() => null);
      const hasLink = async (): Promise<boolean> => (await cut.account.status()).me?.contactLink != null;
      await cut.until(async () => (await hasLink().catch(() => false)) || cut.crashed, "a link or a crash");
      finished = !cut.crashed;
      await cut.die();
      await joining;
      const tab = await browser.open();
      const { phase, me } = await tab.account.status();
      if (phase === "none") await tab.account.join(invitation, "Alice", null);
      // the screen asks once, when it opens; from then on it is told
      await tab.until(() => me?.contactLink ?? toldLink(tab), `the link after a cut ${when} commit ${at}`);
      expect(toldLink(tab) ?? me?.contactLink).toBe((await tab.account.status()).me?.contactLink);
      expect(tab.bugs).toEqual([]);
      await tab.close();
    }
  }, 180_000);
}

test("who taps Start three times joins once, and is online with a link", async () => {
  const browser = new Browser("Alice");
  world.browsers.push(browser);
  const invitation = await world.server.invite();
  const tab = await browser.open();
  const joined = await Promise.all([1, 2, 3].map(() => tab.account.join(invitation, "Alice", null)));
  expect(new Set(joined.map((me) => me.id)).size).toBe(1);
  await tab.until(async () => (await tab.account.status()).connection.state === "online", "being online");
  await tab.until(() => toldLink(tab), "the link");
  expect((await tab.account.status()).connection.elsewhere).toBe(false);
  expect(tab.bugs).toEqual([]);
});

test("an account whose deletion was answered into nothing is erased with the next connection", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  alice.crashAt(2, "before"); // the first remembers that it is wanted; nothing comes after the server's answer
  const deleting = alice.account.deleteAccount().catch(() => {});
  await bob.until(async () => {
    await bob.say("Alice", "there?");
    return (await bob.history("Alice")).some((message) => message.state === "failed");
  }, "the end of the account");
  await alice.die();
  await deleting;
  const idle = await alice.browser.open({ live: false });
  expect(await idle.account.status()).toMatchObject({ phase: "ready", deleting: true });
  await idle.close();
  const tab = await alice.browser.open();
  await tab.until(async () => (await tab.account.status()).phase === "deleted", "being erased");
  await tab.close();
  const again = await alice.browser.open();
  expect((await again.account.status()).phase).toBe("none");
});

test("a deletion that fails because the server does not answer does not come to be when it does (DEV-45)", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await world.server.holdDuring(async () => {
    await expect(alice.account.deleteAccount()).rejects.toMatchObject({ code: "offline" });
  });
  expect(await alice.account.status()).toMatchObject({ phase: "ready", deleting: false });
  await bob.say("Alice", "still there?");
  await alice.message("Bob", "still there?");
  await alice.say("Bob", "I am");
  await bob.message("Alice", "I am");
  expect(alice.events.some((event) => event.type === "status" && event.status.deleting)).toBe(false);
  expect([...alice.bugs, ...bob.bugs]).toEqual([]);
});

test("a deletion whose request may have left is told as such until the next login tells (DEV-45)", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  alice.browser.meet = (command, link) => {
    if (command === "DeleteAccount") link.lose(new ConnectionLost("nobody knows"));
  };
  const told = () => alice.events.filter((event) => event.type === "status").map(({ status }) => status.deleting);
  await expect(alice.account.deleteAccount()).rejects.toMatchObject({ code: "offline" });
  await alice.until(() => told().at(-1) === false && told().includes(true), "how it ended");
  expect(await alice.account.status()).toMatchObject({ phase: "ready", deleting: false });
  await bob.say("Alice", "still there?");
  await alice.message("Bob", "still there?");
});

test("a deletion that the server refuses is none, and so is one that another tab is asked for too late", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  alice.browser.meet = (command) => {
    if (command === "DeleteAccount") throw new WireError(RATE_LIMITED);
  };
  await expect(alice.account.deleteAccount()).rejects.toMatchObject({ code: "later" });
  expect(await alice.account.status()).toMatchObject({ phase: "ready", deleting: false });
  alice.browser.meet = () => {};
  const channel = alice.browser.channel();
  const answer = new Promise((resolve) =>
    channel.listen((word) => isWord(word) && word.taube === "answer" && resolve(word)),
  );
  channel.post({ taube: "ask", id: "late", asked: { method: "deleteAccount", beforeMs: Date.now() } });
  expect(await answer).toMatchObject({ id: "late", failure: { code: "offline" } });
  await bob.say("Alice", "still there?");
  await alice.message("Bob", "still there?");
});

test("a deletion that never left is none, and erases nothing when another copy became the device (DEV-45)", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await bob.say("Alice", "remember this");
  await bob.settled("Alice", "remember this", "delivered");
  await alice.store.write((tx) => tx.setMeta("deleting", 1)); // it is wanted; the request never leaves
  await alice.die();
  const copy = await alice.browser.copy();
  world.browsers.push(copy);
  expect(await copy.stored("deleting")).not.toBeNull();
  const tab = await alice.browser.open();
  await tab.say("Bob", "still here");
  await bob.message("Alice", "still here");
  expect(await alice.browser.stored("deleting")).toBeNull();
  await tab.until(() => tab.events.some((event) => event.type === "status" && !event.status.deleting), "being told");
  const late = await copy.open();
  await late.until(async () => (await late.account.status()).phase !== "ready", "being told");
  expect((await late.account.status()).phase).toBe("replaced");
  expect(await late.texts("Bob")).toContain("remember this");
});

test("what failed is tried again when a person asks for it", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await alice.account.deleteAccount();
  await bob.say("Alice", "nobody there");
  const failed = await bob.settled("Alice", "nobody there", "failed");
  expect(failed.failure).toEqual({ code: "nobody_there", params: {} });
  expect(await bob.account.retry(failed)).toMatchObject({ state: "queued", id: failed.id, failure: null });
  await bob.settled("Alice", "nobody there", "failed");
  expect(await bob.texts("Alice")).toEqual(["nobody there"]);
});

test("a photo that the server does not take is not sent, stays to be seen, and is tried again when a person asks", async () => {
  const server = await TestServer.start(null, "[blobs]\nblob_bytes = 1000\n");
  const browsers = [new Browser("Alice"), new Browser("Bob")] as const;
  try {
    const [alice, bob] = await Promise.all([
      browsers[0].join(await server.invite()),
      browsers[1].join(await server.invite()),
    ]);
    const chat = await alice.account.add((await bob.account.status()).me?.contactLink ?? "");
    const data = new Blob([new Uint8Array(50_000)], { type: "image/jpeg" });
    const photo = { data, width: 1, height: 1, thumbhash: NO_BYTES, name: "" };
    await alice.account.sendPhoto(chat.id, photo, "too large", null);
    const failed = await alice.settled("Bob", "too large", "failed");
    expect(failed).toMatchObject({ media: { state: "here" }, failure: { code: "file_not_taken" } });
    expect((await alice.account.media(failed)).size).toBe(50_000);
    const again = await alice.account.retry(failed);
    expect(again).toMatchObject({ state: "queued", media: { state: "uploading" } });
    const twice = await alice.settled("Bob", "too large", "failed");
    expect(twice).toMatchObject({ id: failed.id, media: { state: "here" } });
    expect((await alice.account.media(twice)).size).toBe(50_000);
  } finally {
    for (const browser of browsers) await browser.close();
    await server.remove();
  }
});

test("an app whose database is taken away says so at once, and finds out what is left when it is loaded anew", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  const gone = new Promise((resolve, reject) => {
    const request = indexedDB.deleteDatabase(alice.browser.profile.name);
    request.onsuccess = resolve;
    request.onerror = reject;
  });
  await gone;
  const isTold = () => alice.events.find((event) => event.type === "status" && event.status.phase === "unreadable");
  expect(await alice.until(isTold, "what became of it")).toMatchObject({
    status: { failure: { code: "storage" }, me: null },
  });
  await expect(alice.account.sendText("00".repeat(16), "out of nothing", null)).rejects.toMatchObject({
    code: "storage",
  });
  await alice.close();
  expect(alice.bugs).toEqual([]);
  const again = await alice.browser.open();
  expect((await again.account.status()).phase).toBe("evicted");
  await bob.say("Alice", "into nothing");
  await bob.settled("Alice", "into nothing", "kept");
});
