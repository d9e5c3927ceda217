/** Engines on a real server: people meet, write, and do all else that the screens ask for. */

import { expect, test } from "vitest";
import { unhex } from "../../src/bytes";
import type { ErrorCode, Photo } from "../../src/client/api";
import { contactLink, parseContactLink } from "../../src/client/contacts";
import { browserRandom } from "../../src/client/e2e";
import { Person } from "../person";
import { Browser, type Tab, useWorld } from "./tabs";

const world = useWorld();

test("two people write to each other", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  await alice.say("Bob", "hello");
  await bob.message("Alice", "hello");
  await alice.settled("Bob", "hello", "delivered");
  const chat = await bob.chatWith("Alice");
  await bob.account.markRead(chat.id, Number.MAX_SAFE_INTEGER);
  await alice.settled("Bob", "hello", "read");
  const heard = bob.events.find(
    (event) => event.type === "message" || (event.type === "chat" && event.chat.unread > 0),
  );
  expect(heard?.type, "a chat counts its message before the message is told").toBe("chat");
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

/** Answers typing with typing, and ends with the first text. */
const LISTENER = `
import asyncio, sys
from taube.client.account import Account
from taube.client.events import MessageReceived, Typing

async def main():
    async with Account.open(sys.argv[1]) as me:
        chat, typed = me.chat("Alice"), False
        async for event in me.events():
            if isinstance(event, Typing) and event.active and not typed:
                typed = True
                print(event.sender, "is typing")
                await chat.typing()
            if isinstance(event, MessageReceived) and event.message.kind == "text" and not event.message.mine:
                print(event.message.text)
                return

asyncio.run(main())
`;

test("a person on the command line and one in the browser write to each other", async () => {
  const [alice, bob] = await Promise.all([world.someone("Alice"), Person.join(world.server, "bob")]);
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
  const listening = bob.program(LISTENER);
  await alice.until(async () => {
    await alice.account.typing(request.id, true);
    return alice.events.some((event) => event.type === "typing" && event.active && event.senderName === "bob");
  }, "bob typing");
  await alice.account.sendText(request.id, "an answer", await alice.message("bob", "hello from the command line"));
  expect((await listening).trim().split("\n")).toEqual(["Alice is typing", "an answer"]);
  const { digits } = await alice.account.safetyNumber(request.id);
  expect((await bob.run("verify", "Alice")).replace(/\D/g, "")).toContain(digits);
  expect(alice.bugs).toEqual([]);
});

test("two who add each other at once have one chat", async () => {
  const [alice, bob] = await Promise.all([world.someone("Alice"), world.someone("Bob")]);
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

test("someone whom a link does not name has no name, until they say it", async () => {
  const [alice, bob] = await Promise.all([world.someone("Alice"), world.someone("Bob")]);
  const link = parseContactLink((await bob.account.status()).me?.contactLink ?? "");
  const chat = await alice.account.add(contactLink({ ...link, name: "" }));
  expect(chat.name).toBe("");
  expect((await alice.account.search("some")).chats).toEqual([]);
  await bob.account.accept((await bob.chatWith("Alice")).id);
  expect((await alice.chatWith("Bob")).id).toBe(chat.id);
});

test("a contact who goes by another name is called so on both sides, except where a person chose a name (CNT-14)", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob"); // alice has the name from a link, bob from a profile
  await bob.account.setProfile("Robert", null);
  const { id } = await alice.chatWith("Robert");
  await alice.account.setProfile("Alicia", null);
  await bob.chatWith("Alicia");
  await alice.account.setChat(id, { name: "Bobby" });
  await bob.account.setProfile("Rob", null);
  await bob.say("Alicia", "that was the last time");
  expect(await alice.message("Bobby", "that was the last time")).toMatchObject({ senderName: "Bobby" });
});

test("someone who is blocked is not heard, and is let in again by accepting", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
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

test("who is blocked counts as read, and a stranger who was ignored comes back when they are let in", async () => {
  const [alice, bob, carol] = await Promise.all([world.someone("Alice"), world.someone("Bob"), world.someone("Carol")]);
  const link = (await alice.account.status()).me?.contactLink ?? "";
  for (const [other, ignored] of [
    [bob, false],
    [carol, true],
  ] as const) {
    const { id } = await other.account.add(link);
    await other.account.sendText(id, "psst", null);
    const { name } = (await other.account.status()).me ?? { name: "" };
    const request = await alice.until(async () => (await alice.account.chats()).find((one) => one.name === name));
    await alice.until(async () => (await alice.account.chat(request.id)).unread > 0);
    if (ignored) expect(await alice.account.ignore(request.id)).toMatchObject({ archived: true, unread: 0 });
    expect(await alice.account.block(request.id)).toMatchObject({ state: "blocked", unread: 0, firstUnread: 0 });
    const letIn = { state: "open", archived: false, mutedUntilMs: 0 };
    expect(await alice.account.accept(request.id)).toMatchObject(letIn);
    expect(await alice.account.block(request.id)).toMatchObject({ state: "blocked", archived: false, unread: 0 });
  }
});

test("a stranger who is blocked and unblocked asks again, and hears nothing before being accepted (DEV-42)", async () => {
  const [alice, bob] = await Promise.all([world.someone("Alice"), world.someone("Bob")]);
  const { id } = await bob.account.add((await alice.account.status()).me?.contactLink ?? "");
  await bob.account.sendText(id, "psst", null);
  const request = await alice.chatWith("Bob");
  await alice.message("Bob", "psst");
  await alice.account.block(request.id);
  const again = { state: "request", archived: false, mutedUntilMs: 0, unread: 1 };
  expect(await alice.account.unblock(request.id)).toMatchObject(again);
  const owed = await alice.store.read(async (tx) => [
    await tx.receiptsOwed(),
    await tx.chores("successor"),
    (await tx.chat(unhex(request.id)))?.nextSequence,
  ]);
  expect(owed).toEqual([[], [], 1]);
  await alice.account.accept(request.id);
  await bob.settled("Alice", "psst", "delivered");
  await alice.say("Bob", "hello");
  await bob.message("Alice", "hello");
  await alice.account.block(request.id);
  expect(await alice.account.unblock(request.id)).toMatchObject({ state: "open" });
});

test("a link that leads nowhere is refused with its own code", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  const link = (await bob.account.status()).me?.contactLink ?? "";
  const own = (await alice.account.status()).me?.contactLink ?? "";
  const invitation = await world.server.invite();
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
    if (wrong !== invitation) await expect(alice.account.inspectLink(wrong)).rejects.toMatchObject({ code });
  }
  const known = await alice.chatWith("Bob");
  expect(await alice.account.add(` ${link}\n`)).toMatchObject({ id: known.id });
  expect(await alice.account.inspectLink(link)).toMatchObject({
    kind: "contact",
    name: "Bob",
    account: known.peer,
    chat: known.id,
  });
  const stranger = new Browser("Stranger");
  world.browsers.push(stranger);
  const tab = await stranger.open();
  await expect(tab.account.join(link, "Stranger", null)).rejects.toMatchObject({ code: "link_is_contact" });
  await expect(tab.account.join(invitation, " ", null)).rejects.toMatchObject({ code: "name_empty" });
  await tab.account.join(invitation, "Stranger", null);
  expect(await tab.account.join(invitation, "Stranger", null)).toMatchObject({ name: "Stranger" });
  const other = await new Browser("Other").open();
  await expect(other.account.join(invitation, "Other", null)).rejects.toMatchObject({ code: "invitation_used" });
  await other.close();
});

test("two tabs show the same, both can write, and one takes over when the other is closed", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
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
  const [alice, bob] = await world.friends("Alice", "Bob");
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
  await tab.close();
  const idle = await bob.browser.open({ live: false });
  await expect(idle.account.knows()).rejects.toMatchObject({ code: "offline" });
  await idle.close();
  const early = await bob.browser.open({ live: false });
  const slow = early.account.wake();
  const late = await bob.browser.open();
  await late.until(async () => (await late.account.status()).connection.caughtUp);
  await slow;
  await early.close();
  await late.until(async () => !(await late.account.status()).connection.elsewhere);
  expect([...worker.bugs, ...tab.bugs, ...other.bugs, ...early.bugs, ...late.bugs]).toEqual([]);
});

/** What a browser subscribes with, at a push service that nothing is sent to. */
function subscription(path: string): PushSubscriptionJSON {
  const key = Buffer.concat([Buffer.from([4]), browserRandom(64)]).toString("base64url");
  const auth = Buffer.from(browserRandom(16)).toString("base64url");
  return { endpoint: `https://93.184.216.34/${path}`, keys: { p256dh: key, auth } };
}

async function endpoints(tab: Tab): Promise<string[]> {
  const facts = await tab.account.knows();
  return facts.filter(({ entry }) => entry === "push endpoint").map(({ value }) => value.split(",")[0] ?? "");
}

test("where a device is woken is told once, however often it is said, and anew when it changed", async () => {
  const tab = await world.someone("Pia");
  const first = subscription("first");
  for (let times = 0; times < 30; times += 1) {
    expect(await tab.account.setPush(first)).toEqual({ state: "on", why: "" });
  }
  expect(await endpoints(tab)).toEqual([first.endpoint]);
  const second = subscription("second");
  await tab.account.setPush(second);
  expect(await endpoints(tab)).toEqual([second.endpoint]);
  await tab.account.setPush({ ...second, endpoint: "https://127.0.0.1/" });
  expect((await tab.account.status()).push).toEqual({ state: "broken", why: "refused_by_server" });
  expect(await tab.account.setPush(null)).toEqual({ state: "off", why: "" });
  expect(await endpoints(tab)).toEqual([]);
  expect(tab.bugs).toEqual([]);
});

test("a server that would wake a device that wants it no more is told so at the next login (WAK-07)", async () => {
  const tab = await world.someone("Pia");
  await tab.account.setPush(subscription("unwanted"));
  await tab.store.write((tx) => tx.setMeta("push", null)); // as beside a server that was restored
  await tab.close();
  const again = await tab.browser.open();
  await again.until(async () => (await again.account.status()).connection.caughtUp);
  await again.until(async () => (await again.store.read((tx) => tx.metaInt("push_due"))) === 0);
  expect(await endpoints(again)).toEqual([]);
  expect((await again.account.status()).push).toEqual({ state: "off", why: "" });
  expect([...tab.bugs, ...again.bugs]).toEqual([]);
});

test("a server that wants to hear no more of push for now holds up neither mailbox nor messages", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  for (let times = 0; times < 25; times += 1) await alice.account.setPush(subscription(`${times}`));
  await alice.close();
  await bob.say("Alice", "Still there?");
  const tab = await alice.browser.open();
  await tab.message("Bob", "Still there?");
  await tab.say("Bob", "Yes.");
  await tab.settled("Bob", "Yes.", "delivered");
  expect([...alice.bugs, ...bob.bugs, ...tab.bugs]).toEqual([]);
});

test("an account that is deleted is gone at the server, and here, in every tab", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  const second = await alice.browser.open();
  const link = (await alice.account.status()).me?.contactLink ?? "";
  await second.account.deleteAccount();
  await alice.until(async () => (await alice.account.status()).phase === "deleted");
  expect((await second.account.status()).phase).toBe("deleted");
  const carol = await world.someone("Carol");
  await expect(carol.account.add(link)).rejects.toMatchObject({ code: "link_gone" });
  await bob.say("Alice", "nobody there");
  await bob.settled("Alice", "nobody there", "failed");
});

test("a person's name, picture, settings and searches are what they were set to", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  const head = [0xff, 0xd8, 0xff, 0xc0, 0, 17, 8, 1, 0, 1, 0, 3];
  const picture = new Blob([new Uint8Array(head)], { type: "image/jpeg" });
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
  const answered = await bob.message("Ali", "a needle in the hay");
  const draftReply = { id: answered.id, sender: answered.sender, text: "a needle in the hay" };
  expect(await bob.account.setChat(chat.id, { draftReply: answered })).toMatchObject({ draftReply });
  expect(await bob.account.setChat(chat.id, { draft: "half" })).toMatchObject({ draft: "half", draftReply });
  for (const none of [null, { ...answered, id: "00".repeat(16) }])
    expect(await bob.account.setChat(chat.id, { draftReply: none })).toMatchObject({ draftReply: null });
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

/** A picture of so many bytes that nothing can compress. */
function picture(bytes: number): Photo {
  const data = new Uint8Array(browserRandom(bytes));
  data.set([0xff, 0xd8, 0xff, 0xc0, 0, 17, 8, 0x01, 0xe0, 0x02, 0x80, 3]);
  const thumbhash = new Uint8Array([1, 2, 3]);
  return { data: new Blob([data], { type: "image/jpeg" }), width: 640, height: 480, thumbhash, name: "dove.jpg" };
}

test("a photo is shown at once, holds up no text, and is the same at the other end", async () => {
  const [alice, bob] = await world.friends("Alice", "Bob");
  const photo = picture(300_000);
  const chat = await alice.chatWith("Bob");
  const sent = await alice.account.sendPhoto(chat.id, photo, "look", null);
  expect(sent).toMatchObject({ kind: "media", text: "look", state: "queued", mine: true });
  expect(sent.media).toMatchObject({
    mediaType: "image/jpeg",
    size: 300_000,
    width: 640,
    height: 480,
    name: "dove.jpg",
  });
  await alice.say("Bob", "not held up");
  await alice.settled("Bob", "look", "delivered");
  const got = await bob.message("Alice", "look");
  expect(got.media).toMatchObject({
    state: "remote",
    mediaType: "image/jpeg",
    width: 640,
    height: 480,
    name: "dove.jpg",
  });
  const loaded = await bob.account.media(got);
  expect(await loaded.arrayBuffer()).toEqual(await photo.data.arrayBuffer());
  expect((await bob.message("Alice", "look")).media).toMatchObject({ state: "here", progress: 1 });
  expect(bob.events.some((event) => event.type === "changed" && event.message.media?.state === "loading")).toBe(true);
  expect(await bob.account.media(got)).toMatchObject({ size: 300_000, type: "image/jpeg" });
  await bob.account.markRead((await bob.chatWith("Alice")).id, Number.MAX_SAFE_INTEGER);
  await alice.settled("Bob", "look", "read");
  const wrong = { ...photo, data: new Blob(["<svg>"], { type: "text/html" }) };
  await expect(alice.account.sendPhoto(chat.id, wrong, "", null)).rejects.toMatchObject({ code: "file_not_a_picture" });
  expect([...alice.bugs, ...bob.bugs]).toEqual([]);
});
