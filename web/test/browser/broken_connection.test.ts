/** What becomes of messages when the network, the page, the browser or the server fails: none is lost, none comes twice. */

import { afterAll, afterEach, beforeAll, expect, test } from "vitest";
import { Cable } from "./cable";
import { befriend, kill, PATIENT, photo, shown, type User, useStage } from "./people";

/** All that happens, happens in one chat of Ada, whose network is in our hands, and Ben. */
const stage = useStage([], { goesOn: true });
let cable: Cable;
let folder: string;
let ada: User;
let ben: User;

beforeAll(async () => {
  cable = await Cable.lay();
  folder = await stage.folder();
  const invitation = await stage.invitation();
  [ada, ben] = await Promise.all([stage.installed(folder, invitation, cable), stage.phone("Ben")]);
  await ada.join("Ada");
  await befriend(ada, ben);
  await ada.kept();
});
afterEach(() => findNetwork());
afterAll(() => cable.remove());

async function loseNetwork(): Promise<void> {
  cable.cut();
  await ada.phone.context.setOffline(true);
}

/** The browser tells the app that there is one again. */
async function findNetwork(): Promise<void> {
  cable.mend();
  await ada.phone.context.setOffline(false);
}

/** Wait until *user* has these messages, each once and in this order. */
async function has(user: User, ...texts: string[]): Promise<void> {
  const found = async () => (await user.texts()).filter((text) => texts.includes(text));
  await expect.poll(found, PATIENT).toEqual(texts);
}

test("what is written without a network waits, outlives a reload, and arrives once and in order", async () => {
  await loseNetwork();
  await ada.see("No connection. What you write is sent later.");
  await ada.home();
  await ada.open("Ben");
  // at once: what was said already is not held back anew
  expect(await ada.conversation("Ben").locator(".banner").count()).toBe(1);
  for (const text of ["one", "two", "three"]) await ada.write(text);
  await ben.write("four");
  await ben.tick("four", "sent");
  await ada.reload();
  for (const text of ["one", "two", "three"]) await ada.tick(text, "waiting to be sent");
  await ada.write("five");
  await ada.tick("five", "waiting to be sent");

  await findNetwork();
  for (const text of ["one", "two", "three", "five"]) await ada.tick(text, "read");
  await ben.tick("four", "read");
  await has(ada, "one", "two", "three", "five", "four");
  await has(ben, "four", "one", "two", "three", "five");
  expect([...ada.alarms, ...ben.problems]).toEqual([]);
});

test("a page that is loaded anew before the server has answered sends nothing twice", async () => {
  cable.deafen();
  await ada.write("under way");
  await ben.receive("under way");
  await ada.tick("under way", "waiting to be sent");
  cable.cut();
  await ada.write("not yet");
  await ada.reload();
  await ada.tick("under way", "waiting to be sent");
  await ada.tick("not yet", "waiting to be sent");

  await findNetwork();
  await ada.tick("under way", "read");
  await ada.tick("not yet", "read");
  await has(ada, "under way", "not yet");
  await has(ben, "under way", "not yet");
  expect([...ada.alarms, ...ben.problems]).toEqual([]);
});

test("a browser that dies while it sends has lost nothing when it is opened again, and sends nothing twice", async () => {
  cable.deafen();
  await ada.write("almost there");
  await ben.receive("almost there");
  cable.cut();
  await ada.write("still here");
  await ada.tick("still here", "waiting to be sent");
  await kill(ada, folder);
  await ben.write("while you were away");
  await ben.tick("while you were away", "sent");

  cable.mend();
  ada = await stage.installed(folder, "/", cable);
  await ada.open("Ben");
  for (const text of ["almost there", "still here"]) await ada.tick(text, "read");
  await ben.tick("while you were away", "read");
  await has(ada, "almost there", "still here", "while you were away");
  await has(ben, "almost there", "while you were away", "still here");
  expect([...ada.alarms, ...ben.problems]).toEqual([]);
});

test("a photo whose upload was cut off by a reload goes on, and arrives once", async () => {
  cable.choke(200_000);
  await ada.sendPhoto("tree.png", photo(1000, 800), "A tree");
  await expect.poll(() => cable.isFull, PATIENT).toBe(true);
  await ada.tick("A tree", "waiting to be sent");
  await ada.reload();
  await ada.tick("A tree", "waiting to be sent");
  expect(await ada.picture("A tree")).toEqual([1000, 800]);

  await findNetwork();
  await ada.tick("A tree", "read");
  expect(await ben.picture("A tree")).toEqual([1000, 800]);
  await ada.write("Did you see it?");
  await ada.tick("Did you see it?", "read");
  await has(ada, "Photo: A tree", "Did you see it?");
  await has(ben, "Photo: A tree", "Did you see it?");
  expect([...ada.alarms, ...ben.problems]).toEqual([]);
});

test("a photo that could not be loaded without a network comes by itself when it is back", async () => {
  await ada.home();
  await ben.sendPhoto("house.png", photo(320, 240), "A house");
  await ben.tick("A house", "delivered");
  await loseNetwork();
  await ada.open("Ben");
  await ada.see("The server does not answer. Check your connection and try again.");
  await findNetwork();
  expect(await ada.picture("A house")).toEqual([320, 240]);
  await ben.tick("A house", "read");
  expect([...ada.alarms, ...ben.problems]).toEqual([]);
});

test("an invitation outlives a page that found no server, until it is used", async () => {
  const network = await Cable.lay();
  const cleo = await stage.newPhone(await stage.invitation(), network);
  await shown(cleo.heading("You are invited"));
  await cleo.kept();
  network.cut();
  await cleo.field("Your name").fill("Cleo");
  await cleo.button("Start").click();
  await cleo.see("The server does not answer. Check your connection and try again.");
  await cleo.reload();
  await shown(cleo.heading("You are invited"));
  network.mend();
  await cleo.join("Cleo");
  await cleo.reload();
  await shown(cleo.heading("No chats yet"));
  expect(cleo.alarms).toEqual([]);
  await cleo.phone.close();
  await network.remove();
});

test("the server is restarted in mid-conversation, in good order and by a crash, and they go on", async () => {
  for (const signal of ["SIGTERM", "SIGKILL"] as const) {
    await ada.write(`${signal} is coming`);
    await stage.server.stop(signal);
    await ada.write(`after ${signal}`);
    await stage.server.start();
    await ada.tick(`${signal} is coming`, "read");
    await ada.tick(`after ${signal}`, "read");
    await ben.write(`well, ${signal}`);
    await ben.tick(`well, ${signal}`, "read");
  }
  const all = ["SIGTERM", "SIGKILL"].flatMap((signal) => [`${signal} is coming`, `after ${signal}`, `well, ${signal}`]);
  await has(ada, ...all);
  await has(ben, ...all);
  expect([...ada.alarms, ...ben.alarms]).toEqual([]);
});
