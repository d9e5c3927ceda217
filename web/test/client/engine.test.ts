/** Two engines of this app on a real server: they meet, write, read, and lose nothing. */

import { afterAll, beforeAll, expect, test } from "vitest";
import { encodeBase64, NO_BYTES, unhex } from "../../src/bytes";
import type { ErrorCode } from "../../src/client/api";
import { encode } from "../../src/client/content";
import { browserRandom } from "../../src/client/e2e";
import { pack } from "../../src/wire/packing";
import { Person } from "../person";
import { TestServer } from "../server";
import { Browser, type Tab } from "./tabs";

let server: TestServer;
const browsers: Browser[] = [];

beforeAll(async () => {
  server = await TestServer.start();
});

afterAll(async () => {
  for (const browser of browsers) await browser.close();
  await server.remove();
});

async function someone(name: string): Promise<Tab> {
  const browser = new Browser(name);
  browsers.push(browser);
  return browser.join(await server.invite());
}

/** Two who have added and accepted each other. */
async function friends(first: string, second: string): Promise<[Tab, Tab]> {
  const [one, other] = await Promise.all([someone(first), someone(second)]);
  const { contactLink } = (await other.account.status()).me ?? {};
  await one.account.add(contactLink ?? "");
  const request = await other.chatWith(first);
  await other.account.accept(request.id);
  await one.chatWith(second);
  return [one, other];
}

test("two people write to each other", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  await alice.say("Bob", "hello");
  await bob.message("Alice", "hello");
  await alice.settled("Bob", "hello", "delivered");
  const chat = await bob.chatWith("Alice");
  await bob.account.markRead(chat.id, Number.MAX_SAFE_INTEGER);
  await alice.settled("Bob", "hello", "read");
  const { messages } = await bob.account.messages(chat.id, { limit: 10 });
  const answered = messages.find((message) => message.text === "hello");
  await bob.account.sendText(chat.id, "hello yourself", answered ?? null);
  const reply = await alice.message("Bob", "hello yourself");
  expect(reply.reply).toMatchObject({ text: "hello", mine: true, kind: "text" });
  await bob.account.typing(chat.id, true);
  await alice.until(() => alice.events.some((event) => event.type === "typing" && event.active));
  expect(alice.bugs).toEqual([]);
  expect(bob.bugs).toEqual([]);
});

test("a person on the command line and one in the browser write to each other", async () => {
  const [alice, bob] = await Promise.all([someone("Alice"), Person.join(server, "bob")]);
  const { contactLink } = (await alice.account.status()).me ?? {};
  await bob.run("add", contactLink ?? "");
  await bob.run("send", "Alice", "hello from the command line");
  const request = await alice.chatWith("bob");
  await alice.message("bob", "hello from the command line");
  await alice.account.accept(request.id);
  await alice.say("bob", "hello from the browser");
  await alice.settled("bob", "hello from the browser", "kept");
  const read = await bob.records("read", "--wait", "5");
  expect(read.map((record) => record.text)).toEqual(["hello from the browser"]);
  await alice.settled("bob", "hello from the browser", "read");
  await alice.account.markRead(request.id, Number.MAX_SAFE_INTEGER);
  const { digits } = await alice.account.safetyNumber(request.id);
  expect((await bob.run("verify", "Alice")).replace(/\D/g, "")).toContain(digits);
  expect(alice.bugs).toEqual([]);
});

test("what is written while the server is away is sent when it is back, in order and once", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  await server.stop("SIGKILL");
  for (const text of ["one", "two", "three"]) await alice.say("Bob", text);
  await bob.say("Alice", "meanwhile");
  expect(await alice.history("Bob")).toMatchObject([{ state: "queued" }, { state: "queued" }, { state: "queued" }]);
  await server.start();
  alice.account.hurry();
  bob.account.hurry();
  await alice.settled("Bob", "three", "delivered");
  await alice.message("Bob", "meanwhile");
  expect((await bob.texts("Alice")).filter((text) => text !== "meanwhile")).toEqual(["one", "two", "three"]);
  expect([...alice.bugs, ...bob.bugs]).toEqual([]);
});

test("two who add each other at once have one chat", async () => {
  const [alice, bob] = await Promise.all([someone("Alice"), someone("Bob")]);
  const [ofAlice, ofBob] = await Promise.all([alice.account.status(), bob.account.status()]);
  await Promise.all([alice.account.add(ofBob.me?.contactLink ?? ""), bob.account.add(ofAlice.me?.contactLink ?? "")]);
  await Promise.all([alice.say("Bob", "from alice"), bob.say("Alice", "from bob")]);
  await alice.message("Bob", "from bob");
  await bob.message("Alice", "from alice");
  await alice.say("Bob", "and again");
  await bob.message("Alice", "and again");
  expect(await alice.account.chats()).toHaveLength(1);
  expect(await bob.account.chats()).toHaveLength(1);
});

test("someone who is blocked is not heard, and is let in again by accepting", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  const chat = await bob.chatWith("Alice");
  await bob.account.block(chat.id);
  await expect(bob.account.sendText(chat.id, "no", null)).rejects.toMatchObject({ code: "chat_blocked" });
  await alice.say("Bob", "unheard");
  await alice.settled("Bob", "unheard", "failed");
  await bob.account.accept(chat.id);
  await bob.say("Alice", "welcome back");
  await alice.message("Bob", "welcome back");
  await alice.say("Bob", "heard");
  await bob.message("Alice", "heard");
});

test("a link that leads nowhere is refused with its own code", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  const link = (await bob.account.status()).me?.contactLink ?? "";
  const own = (await alice.account.status()).me?.contactLink ?? "";
  const invitation = await server.invite();
  const refused: [string, ErrorCode][] = [
    ["", "link_malformed"],
    ["https://example.org", "link_malformed"],
    [`${link}A`, "link_malformed"],
    [invitation, "link_is_invitation"],
    [own, "link_own"],
    [link.replace(/^[^#]*/, "https://elsewhere.example/c"), "link_other_server"],
  ];
  for (const [wrong, code] of refused) {
    await expect(alice.account.add(wrong), wrong).rejects.toMatchObject({ code });
  }
  const known = await alice.chatWith("Bob");
  expect(await alice.account.add(` ${link}\n`)).toMatchObject({ id: known.id });
  expect(await alice.account.inspectLink(link)).toMatchObject({ kind: "contact", name: "Bob", chat: known.id });
  const stranger = new Browser("Stranger");
  browsers.push(stranger);
  const tab = await stranger.open();
  await expect(tab.account.join(link, "Stranger", null)).rejects.toMatchObject({ code: "link_is_contact" });
  await expect(tab.account.join(invitation, " ", null)).rejects.toMatchObject({ code: "name_empty" });
  await tab.account.join(invitation, "Stranger", null);
  expect(await tab.account.join(invitation, "Stranger", null)).toMatchObject({ name: "Stranger" });
  const other = await new Browser("Other").open();
  await expect(other.account.join(invitation, "Other", null)).rejects.toMatchObject({ code: "invitation_used" });
  await other.close();
});

for (const when of ["before", "after"] as const) {
  test(`a sender that crashes ${when} any commit loses nothing and repeats nothing`, async () => {
    const [alice, bob] = await friends("Alice", "Bob");
    let tab = alice;
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
      }
      await tab.die();
      tab = await alice.browser.open();
      if (!written.includes(text) && (await tab.texts("Bob")).includes(text)) written.push(text);
    }
    await tab.say("Bob", "end");
    await tab.settled("Bob", "end", "delivered");
    expect(await bob.texts("Alice")).toEqual([...written, "end"]);
    expect(bob.bugs).toEqual([]);
  });

  test(`a receiver that crashes ${when} any commit loses nothing and repeats nothing`, async () => {
    const [alice, bob] = await friends("Alice", "Bob");
    let tab = bob;
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
      await tab.die();
      tab = await bob.browser.open();
    }
    await alice.settled("Bob", written.at(-1) ?? "", "delivered");
    expect(await tab.texts("Alice")).toEqual(written);
    expect(alice.bugs).toEqual([]);
  });
}

test("two tabs show the same, both can write, and one takes over when the other is closed", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  const second = await alice.browser.open();
  await second.until(async () => (await second.account.status()).connection.caughtUp);
  expect((await second.account.status()).connection).toMatchObject({ state: "online", elsewhere: true });
  await second.say("Bob", "from the second tab");
  await second.settled("Bob", "from the second tab", "delivered");
  await alice.settled("Bob", "from the second tab", "delivered");
  const chat = await second.chatWith("Bob");
  await second.account.typing(chat.id, true);
  await bob.until(() => bob.events.some((event) => event.type === "typing" && event.active));
  expect((await second.account.knows()).length).toBeGreaterThan(0);
  await bob.say("Alice", "for both");
  await Promise.all([alice.message("Bob", "for both"), second.message("Bob", "for both")]);
  await second.until(() =>
    second.events.some((event) => event.type === "message" && event.message.text === "for both"),
  );
  await alice.close();
  await second.say("Bob", "alone now");
  await second.settled("Bob", "alone now", "delivered");
  expect((await second.account.status()).connection).toMatchObject({ state: "online", elsewhere: false });
  expect([...alice.bugs, ...second.bugs, ...bob.bugs]).toEqual([]);
});

test("a service worker that is woken says what is new, and leaves the mailbox to a tab that has it", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  await bob.close();
  await alice.say("Bob", "wake up");
  await alice.settled("Bob", "wake up", "kept");
  const worker = await bob.browser.open({ live: false });
  const news = await worker.account.wake();
  expect(news).toMatchObject({ complete: true, elsewhere: false });
  expect(news.messages).toMatchObject([{ message: { text: "wake up", senderName: "Alice" }, chat: { unread: 1 } }]);
  await worker.close();
  await alice.settled("Bob", "wake up", "delivered");
  const tab = await bob.browser.open();
  const other = await bob.browser.open({ live: false });
  await tab.until(async () => (await tab.account.status()).connection.caughtUp);
  const waking = other.account.wake();
  await alice.say("Bob", "and again");
  expect(await waking).toMatchObject({ elsewhere: true, messages: [{ message: { text: "and again" } }] });
  await other.close();
  expect([...worker.bugs, ...tab.bugs, ...other.bugs]).toEqual([]);
});

test("a copied profile is found out, and goes on as a new device when a person says so", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  await alice.say("Bob", "before");
  await alice.settled("Bob", "before", "delivered");
  await alice.close();
  const copy = await alice.browser.copy();
  browsers.push(copy);
  const first = await alice.browser.open();
  await first.say("Bob", "from the first");
  await first.settled("Bob", "from the first", "delivered");
  await first.close();
  const second = await copy.open();
  await second.until(async () => (await second.account.status()).phase === "replaced");
  const chat = await second.chatWith("Bob");
  await expect(second.account.sendText(chat.id, "no", null)).rejects.toMatchObject({ code: "replaced" });
  expect(await second.texts("Bob")).toEqual(["before"]);
  await second.account.takeOver();
  await second.until(async () => !(await second.chatWith("Bob")).waiting, "being let in again");
  await second.say("Bob", "from the second");
  await bob.message("Alice", "from the second");
  const late = await alice.browser.open();
  await late.until(async () => (await late.account.status()).phase === "replaced");
  expect([...first.bugs, ...second.bugs, ...late.bugs, ...bob.bugs]).toEqual([]);
});

test("an account that is deleted is gone at the server, and here, in every tab", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  const second = await alice.browser.open();
  const link = (await alice.account.status()).me?.contactLink ?? "";
  await second.account.deleteAccount();
  await alice.until(async () => (await alice.account.status()).phase === "deleted");
  expect((await second.account.status()).phase).toBe("deleted");
  const carol = await someone("Carol");
  await expect(carol.account.add(link)).rejects.toMatchObject({ code: "link_gone" });
  await bob.say("Alice", "nobody there");
  await bob.settled("Alice", "nobody there", "failed");
});

test("a message that never came is asked for, and what nobody understands is kept and shown as such", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
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

test("a person's name, picture, settings and searches are what they were set to", async () => {
  const [alice, bob] = await friends("Alice", "Bob");
  const picture = new Blob([new Uint8Array([0xff, 0xd8, 0xff, 0xe0, 1, 2, 3])], { type: "image/jpeg" });
  await alice.account.setProfile("Alicia", picture);
  const chat = await bob.until(async () => (await bob.account.chats()).find((one) => one.name === "Alicia"));
  expect(await chat.photo?.arrayBuffer()).toEqual(await picture.arrayBuffer());
  await alice.say("Bob", "a needle in the hay");
  await bob.message("Alicia", "a needle in the hay");
  expect(await bob.account.search("NEEDLE")).toMatchObject({
    messages: [{ text: "a needle in the hay" }],
    complete: true,
  });
  expect(await bob.account.search("alicia")).toMatchObject({ chats: [{ id: chat.id }] });
  const settings = { pinned: true, mutedUntilMs: 5, draft: "half a th", name: "Ali" };
  expect(await bob.account.setChat(chat.id, settings)).toMatchObject(settings);
  const { digits, code } = await bob.account.safetyNumber(chat.id);
  expect(await bob.account.compare(chat.id, code.replace(digits, digits.split("").reverse().join("")))).toBe(
    "mismatch",
  );
  expect(await bob.account.compare(chat.id, "https://example.org")).toBe("no_code");
  expect(
    await bob.account.compare(chat.id, (await alice.account.safetyNumber((await alice.chatWith("Bob")).id)).code),
  ).toBe("match");
  expect(await bob.account.chat(chat.id)).toMatchObject({ verified: true });
  for (const name of ["", "x".repeat(65)]) await expect(alice.account.setProfile(name, null)).rejects.toThrow();
  await expect(
    alice.account.sendText((await alice.chatWith("Bob")).id, "x".repeat(16_385), null),
  ).rejects.toMatchObject({
    code: "text_too_long",
    params: { bytes: 16_385, most: 16_384 },
  });
});
