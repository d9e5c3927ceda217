/**
 * The pictures of the README: real phones on a real server, people who write to each other, and what is seen then.
 *
 * `make screenshots` runs it and makes the files in docs/images/ of what it leaves in the folder TAUBE_PICTURES. What is
 * not real is only the clock of the phones, which is put some days back at first, so that the chats have a past, and the
 * time zone, in which it is evening now. It knows nothing of the engine.
 */

import { join } from "node:path";
import { afterAll, expect, test } from "vitest";
import { lake } from "./lake";
import { gone, pathOf, shown, User, useStage } from "./people";
import { openPhone, type Phone } from "./rig";

const FOLDER = process.env.TAUBE_PICTURES ?? "";
const HOUR_MS = 3_600_000;
const EVENING_HOUR = 18;

const stage = useStage();
const phones: Phone[] = [];
afterAll(() => Promise.all(phones.map((phone) => phone.close())));

/** The zone in which it is evening now. */
function timeZone(): string {
  const ahead = ((EVENING_HOUR - new Date().getUTCHours() + 36) % 24) - 12;
  return ahead === 0 ? "Etc/GMT" : `Etc/GMT${ahead > 0 ? "-" : "+"}${Math.abs(ahead)}`;
}

/** Somebody who got an account so many hours ago. */
async function phoneOf(name: string, hours: number): Promise<User> {
  const phone = await openPhone(stage.chromium, stage.server, null, { timezoneId: timeZone() });
  phones.push(phone);
  const worker = phone.page.waitForEvent("worker");
  await phone.page.goto(stage.server.origin + pathOf(await stage.server.invite()));
  await worker;
  const user = new User(phone, phone.page);
  await hoursAgo(hours, user);
  await user.join(name);
  return user;
}

/** For the engines of these phones it is so many hours ago now. */
async function hoursAgo(hours: number, ...users: User[]): Promise<void> {
  for (const worker of users.flatMap((user) => user.page.workers())) {
    await worker.evaluate((agoMs) => {
      const clock = Date as DateConstructor & { real?: () => number };
      clock.real ??= Date.now;
      const real = clock.real;
      clock.now = () => real() - agoMs;
    }, hours * HOUR_MS);
  }
}

/** Somebody on the command line writes to *to*, who accepts, answers, and is written to again. */
async function talk(name: string, to: User, own: string, first: string, answer: string, then: string[]): Promise<void> {
  const person = await stage.person(name);
  await person.run("add", await to.contactLink());
  await person.run("send", own, first);
  await to.accept(name);
  await to.receive(first);
  if (answer) {
    await to.write(answer);
    await person.run("read", "--wait", "20");
    await to.tick(answer, "read");
  }
  await to.home();
  for (const text of then) await person.run("send", own, text);
  const last = then.at(-1) ?? answer;
  if (last) await shown(to.chat(name).getByText(last));
}

/** Choose *what* from the menu of the chat with *name*. */
async function choose(user: User, name: string, what: string): Promise<void> {
  await user.chat(name).click({ button: "right" });
  await user.page.getByRole("menuitem", { name: what }).click();
}

async function take(user: User, name: string): Promise<void> {
  await user.page.mouse.move(190, 20);
  await gone(user.page.locator(".day-floating"));
  await user.page.evaluate(() => (document.activeElement as HTMLElement | null)?.blur());
  await user.page.screenshot({ path: join(FOLDER, `${name}.png`), animations: "disabled" });
}

test("a weekend at the lake", async () => {
  expect(FOLDER, "TAUBE_PICTURES names the folder for the pictures").not.toBe("");
  const nora = await phoneOf("Nora", 78);
  const lena = await phoneOf("Lena", 78);
  const caption = "Look who is here already";

  await hoursAgo(77, nora, lena);
  await talk("Uncle Piet", nora, "Nora", "Did the bread turn out well?", "It did! Thank you for the recipe.", []);

  await hoursAgo(51, nora, lena);
  await talk("Emil", nora, "Nora", "Your bicycle is as good as new.", "You are a magician!", ["It was only the chain"]);
  await nora.open("Emil");
  await nora.home();

  await hoursAgo(23.4, nora, lena);
  await nora.add(await lena.contactLink());
  await nora.write("Are you coming to the lake on Saturday?");
  await lena.accept("Nora");
  await lena.write("Yes! Shall I bring the *small boat*?");
  await nora.receive("small boat");
  await nora.write("And both paddles this time 😄");
  await lena.receive("both paddles");
  await nora.home();

  await hoursAgo(21.6, nora, lena);
  await talk("Sofia", nora, "Nora", "Here is the address: https://example.org/map", "Got it, see you there!", ["👋"]);
  await nora.open("Sofia");
  await nora.home();

  await hoursAgo(20.3, nora, lena);
  await talk("Ines", nora, "Nora", "Thank you for the book!", "Keep it as long as you like.", []);

  await hoursAgo(9.3, nora, lena);
  await talk("Mia", nora, "Nora", "Who has seen my umbrella?", "The red one? It is at my place.", [
    "Phew!",
    "You are the best",
    "I will fetch it on Monday",
  ]);
  await choose(nora, "Mia", "Mute");

  await hoursAgo(6.2, nora, lena);
  await talk("Jonas", nora, "Nora", "Chess on Sunday?", "", []);
  await nora.open("Jonas");
  await nora.field("Message").fill("Sunday is good. After");
  await nora.home();
  await shown(nora.chat("Jonas").getByText("Sunday is good. After"));

  await hoursAgo(2.5, nora, lena);
  await talk("Amina", nora, "Nora", "My new phone has arrived!", "Then let us compare our safety numbers.", []);
  await nora.open("Amina");
  await nora.go(`${new URL(nora.page.url()).hash}/safety`);
  await shown(nora.heading("Safety number"));
  await nora.page.getByText("Mark as verified").click();
  await nora.home();

  const tom = await stage.person("Tom");
  await tom.run("add", await nora.contactLink());
  await tom.run("send", "Nora", "Hello, I have your number from Sofia.");
  await shown(nora.link("Requests"));

  await hoursAgo(0.45, nora, lena);
  await talk("Grandma", nora, "Nora", "The plums are ripe, my dear", "I am coming!", [
    "Bring a basket",
    "And come hungry: there is cake 🍰",
  ]);

  await hoursAgo(0.3, nora, lena);
  await nora.open("Lena");
  await lena.sendPhoto("lake.png", await lake(stage.chromium), caption);
  expect(await nora.picture(caption)).toEqual([1200, 900]);
  await nora.swipe(`Photo: ${caption}`);
  await nora.write("They find the way home. We needed a map last year.");
  await lena.receive("needed a map");
  await hoursAgo(0.2, nora, lena);
  await lena.write("😂😂");
  await lena.write("My train is there at *5:42*. Soup tonight?");
  await nora.receive("Soup tonight");
  await hoursAgo(0.05, nora, lena);
  await nora.write("Yes! It is on the stove.");
  await nora.tick("It is on the stove.", "read");
  await lena.field("Message").pressSequentially("Mm");
  await shown(nora.conversation("Lena").getByText("typing …"));
  await take(nora, "conversation");
  await lena.write("I can smell it from here");
  await nora.receive("smell it");
  await lena.tick("smell it from here", "read");

  await nora.home();
  await choose(nora, "Lena", "Pin to the top");
  while ((await nora.button(/^Close: /).count()) > 0) await nora.button(/^Close: /).click();
  await take(nora, "chats");

  await nora.page.emulateMedia({ colorScheme: "dark" });
  await nora.go("#/settings/server");
  await nora.page.getByText("Your account", { exact: true }).click();
  await take(nora, "knows");
});

test("a game of chess in Arabic", async () => {
  const omar = await phoneOf("عمر", 0);
  const layla = await stage.person("ليلى");
  await layla.run("add", await omar.contactLink());
  const says = (text: string) => layla.run("send", "عمر", text);
  await says("مساء الخير يا عمر!");
  await says("هل نلتقي غدًا عند البحيرة؟");
  await omar.accept("ليلى");
  await omar.write("مساء النور! نعم، في السادسة.");
  await omar.write("سأحضر *الشاي* ☕");
  await layla.run("read", "--wait", "20");
  await says("رائع! وأنا سأحضر الخبز والزيتون من حديقة جدتي.");
  await says("هل أحضر لعبة الشطرنج أيضًا؟");
  await omar.receive("الشطرنج");
  await omar.swipe("هل أحضر لعبة الشطرنج أيضًا؟");
  await omar.write("بالتأكيد! لكن هذه المرة سأفوز أنا");
  await says("😄😄");
  await says("سنرى! الطريق هنا: https://example.org/map");
  await omar.receive("الطريق");
  await omar.write("شكرًا، إلى الغد 👋");
  await layla.run("read", "--wait", "20");
  await omar.tick("شكرًا، إلى الغد 👋", "read");
  const chat = new URL(omar.page.url()).hash;
  await omar.go("#/settings/language");
  await omar.page.getByRole("radio", { name: "العربية" }).check();
  await omar.page.waitForFunction(() => document.documentElement.dir === "rtl");
  await omar.go(chat);
  await shown(omar.page.getByRole("log"));
  await take(omar, "arabic");
});
