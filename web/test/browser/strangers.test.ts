/** Who is it: requests of strangers, names that are used twice, new devices, and the safety number, compared by camera. */

import { cp, mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { encode } from "uqr";
import { afterAll, expect, test } from "vitest";
import { forge, text } from "./forger";
import { gone, PATIENT, shown, type User, useStage } from "./people";

const folder = await mkdtemp(join(tmpdir(), "taube-camera-"));
/** What the camera of every phone sees. */
const SEEN = join(folder, "seen.y4m");
const stage = useStage([
  "--use-fake-device-for-media-stream",
  "--use-fake-ui-for-media-stream",
  `--use-file-for-fake-video-capture=${SEEN}`,
]);
afterAll(() => rm(folder, { recursive: true, force: true }));

/** Ada and Ben, who have accepted each other; Ada stands in their chat. */
async function friends(): Promise<[ada: User, ben: User]> {
  const [ada, ben] = await Promise.all([stage.phone("Ada"), stage.phone("Ben")]);
  await ben.add(await ada.contactLink());
  await ben.write("Hello Ada!");
  await ada.accept("Ben");
  await ada.receive("Hello Ada!");
  return [ada, ben];
}

test("a stranger learns nothing before they are accepted, and then everything", async () => {
  const [ada, ben] = await Promise.all([stage.phone("Ada"), stage.phone("Ben")]);
  await ben.add(await ada.contactLink());
  await ben.write("Hello?");
  await ben.tick("Hello?", "sent");
  await ada.openRequest("Ben");
  await ada.receive("Hello?");
  await ada.see("would like to write to you.");
  expect(await ada.field("Message").count()).toBe(0);
  await ben.write("It is me.");
  await ada.receive("It is me.");
  await ben.tick("It is me.", "sent");
  await ben.tick("Hello?", "sent");
  await ada.button("Accept").click();
  await ben.tick("Hello?", "read");
  await ben.tick("It is me.", "read");
  await ada.write("Hello Ben!");
  await ben.receive("Hello Ben!");
  expect([...ada.problems, ...ben.problems]).toEqual([]);
});

test("a request that is ignored is out of sight and silent, and can be found again", async () => {
  const [ada, cleo] = await Promise.all([stage.phone("Ada"), stage.phone("Cleo")]);
  await cleo.add(await ada.contactLink());
  await cleo.write("Psst!");
  await ada.openRequest("Cleo");
  await ada.receive("Psst!");
  await ada.button("Ignore").click();
  await shown(ada.heading("No chats yet"));
  await ada.see(/You find \S*Cleo\S* under Requests/);
  const requests = ada.link("Requests");
  expect(await requests.textContent()).toBe("Requests");
  await cleo.write("Anybody there?");
  await cleo.tick("Anybody there?", "sent");
  await ada.go("#/search");
  await ada.page.getByRole("searchbox").fill("anybody");
  await ada.page
    .getByRole("region", { name: "Search" })
    .getByRole("link", { name: /Anybody there/ })
    .click();
  await cleo.tick("Anybody there?", "sent");
  expect(await ada.page.title()).toBe("Taube");
  await ada.home();
  await ada.openRequest("Cleo");
  await gone(ada.button("Ignore"));
  await ada.button("Accept").click();
  await cleo.tick("Anybody there?", "read");
  expect([...ada.problems, ...cleo.problems]).toEqual([]);
});

test("a stranger who is blocked stands below the requests, counts nowhere, and can be let in", async () => {
  const [ada, cleo] = await Promise.all([stage.phone("Ada"), stage.phone("Cleo")]);
  await cleo.add(await ada.contactLink());
  await cleo.write("Psst!");
  await shown(ada.link("Requests 1"));
  await expect.poll(() => ada.page.title(), PATIENT).toBe("(1) Taube");
  await ada.openRequest("Cleo");
  await ada.receive("Psst!");
  await ada.button("Block").click();
  await ada.page.getByRole("dialog").getByRole("button", { name: "Block" }).click();
  await shown(ada.heading("No chats yet"));
  await expect.poll(() => ada.page.title(), PATIENT).toBe("Taube");
  expect(await ada.chat("Cleo").count()).toBe(0);
  await ada.link("Requests").click();
  await shown(ada.heading("Ignored and blocked"));
  await shown(ada.page.getByRole("region", { name: "Requests" }).getByRole("link", { name: /Cleo.*Blocked/ }));
  await ada.home();
  await ada.openRequest("Cleo");
  await ada.button("Unblock").click();
  await shown(ada.button("Ignore"));
  await cleo.tick("Psst!", "sent");
  await ada.button("Accept").click();
  await shown(ada.field("Message"));
  await ada.home();
  await shown(ada.chat("Cleo"));
  expect([...ada.problems, ...cleo.problems]).toEqual([]);
});

test("someone who is blocked is not heard, is told nothing, and can be let in again", async () => {
  const [ada, ben] = await friends();
  await ben.tick("Hello Ada!", "read");
  await ada.link("About this chat").click();
  await ada.button("Block").click();
  await ada.page.getByRole("dialog").getByRole("button", { name: "Block" }).click();
  await shown(ada.page.getByRole("region", { name: "Chats", exact: true }));
  await ben.write("Are you there?");
  await ben.tick("Are you there?", "not sent"); // as if the account were deleted
  expect(await ben.page.locator(".notice").count()).toBe(0);
  expect(await ben.page.getByText(/block/i).count()).toBe(0);
  await gone(ada.chat("Ben"));
  await ada.openRequest("Ben");
  await ada.see(/You blocked .*Ben/);
  await ada.receive("Hello Ada!");
  expect(await ada.message("Are you there?").count()).toBe(0);
  expect(await ada.field("Message").count()).toBe(0);

  await ada.button("Unblock").click();
  await ada.write("Here I am.");
  await ben.receive("Here I am.");
  await ada.receive("Are you there?");
  await ben.tick("Are you there?", "read");
  expect([...ada.problems, ...ben.problems]).toEqual([]);
});

test("another account that uses the name of someone known is told apart", async () => {
  const [ada] = await friends();
  await ada.home();
  const link = await ada.contactLink();
  await forge(stage, [{ name: "\uff22\uff25\uff2e", link, contents: [text("It is me, Ben!")] }]);
  await ada.openRequest("\uff22\uff25\uff2e-2");
  await ada.see(/This is another account than the \S*Ben\S* you know/);
  await shown(ada.page.getByRole("alert"));
  await shown(ada.message(/Another account also calls itself \S*Ben/));
  await ada.button("Accept").click();
  await shown(ada.field("Message"));
  await ada.home();
  await shown(ada.chat("\uff22\uff25\uff2e-2"));
  await shown(ada.chat("Ben").first());
  expect(ada.problems).toEqual([]);
});

test("a contact that uses a new device is noticed, and stays verified", async () => {
  const ada = await stage.phone("Ada");
  const dora = await stage.person("Dora");
  await dora.run("add", await ada.contactLink());
  await dora.run("send", "Ada", "from the old one");
  await ada.accept("Dora");
  await ada.receive("from the old one");
  const number = await safetyNumber(ada);
  expect((await dora.run("verify", "Ada")).replace(/\D/g, "")).toContain(number.replace(/\D/g, ""));
  await ada.page.getByRole("switch", { name: "Mark as verified" }).click();
  await shown(ada.page.getByRole("switch", { name: "Mark as verified", checked: true }));
  await ada.home();
  await ada.open("Dora");
  await shown(ada.conversation("Dora").getByText("Verified"));

  const copy = `${dora.home}-copy`;
  await cp(dora.home, copy, { recursive: true });
  await stage.server.taube("send", "--home", copy, "Ada", "from the new one");
  await shown(ada.message(/Dora\S* uses a new device\. Ask /));
  await stage.server.taube("read", "--home", copy, "--wait", "20");
  await ada.receive("from the new one");
  await shown(ada.conversation("Dora").getByText("Verified"));
  expect(await safetyNumber(ada)).toBe(number);
  expect(ada.problems).toEqual([]);
});

test("two phones show the same number, and a camera says whether it is the same", async () => {
  const [ada, ben] = await friends();
  const number = await safetyNumber(ada);
  expect(number).toMatch(/^Safety number: \S*(\d{5} ){11}\d{5}/);
  await ben.link("About this chat").waitFor();
  expect(await safetyNumber(ben)).toBe(number);

  await look(drawn(await ben.page.getByRole("img", { name: "QR code of the safety number" }).innerHTML()));
  await ada.button("Scan their code").click();
  await shown(ada.page.getByRole("dialog", { name: "It matches" }));
  await ada.see(/Only you and \S*Ben\S* can read this chat\. It is marked as verified\./);
  await ada.button("Done").click();
  await shown(ada.page.getByRole("switch", { name: "Mark as verified", checked: true }));

  await look(modules(`taube:safety:${"0123456789".repeat(6)}`));
  await ben.button("Scan their code").click();
  await shown(ben.page.getByRole("dialog", { name: "It does not match" }));
  await look(modules("https://example.org/"));
  await ben.button("Scan again").click();
  await shown(ben.page.getByRole("dialog", { name: "That is no safety number" }));
  await ben.button("Done").click();
  await shown(ben.page.getByRole("switch", { name: "Mark as verified", checked: false }));

  // the camera reads invitations and contact links, too
  const cleo = await stage.newPhone();
  await look(modules(stage.server.origin + (await stage.invitation())));
  await cleo.button("I have an invitation").click();
  await cleo.button("Scan the invitation’s QR code").click();
  await cleo.join("Cleo");
  await ada.go("#/contact");
  await look(drawn(await ada.page.getByRole("img", { name: "QR code of your contact link" }).innerHTML()));
  await cleo.go("#/add");
  await cleo.button("Scan a QR code").click();
  await cleo.see(/This is the link of \S*Ada/);
  await cleo.button("Start the chat").click();
  await shown(cleo.field("Message"));
  expect([...ada.problems, ...ben.problems, ...cleo.problems]).toEqual([]);
});

/** The safety number of the chat that is open, as it is read out; *user* then stands on its page. */
async function safetyNumber(user: User): Promise<string> {
  await user.link("About this chat").click();
  await user.link("Safety number").click();
  const digits = user.page.getByRole("img", { name: /^Safety number:/ });
  await shown(digits);
  return (await digits.getAttribute("aria-label")) ?? "";
}

// ------------------------------------------------------------------ what a camera sees

/** The dark modules of a code, row by row. */
type Modules = boolean[][];

function modules(words: string): Modules {
  return encode(words, { ecc: "L", border: 3 }).data;
}

/** The same, of the drawing on a screen. */
function drawn(svg: string): Modules {
  const size = Number(/M0 0h(\d+)v/.exec(svg)?.[1]);
  const rows = Array.from({ length: size }, () => Array.from({ length: size }, () => false));
  const ink = /class="code-ink" d="([^"]+)"/.exec(svg)?.[1] ?? "";
  for (const [, x, y, length] of ink.matchAll(/M(\d+) (\d+)h(\d+)v1h-\d+z/g)) {
    for (let at = 0; at < Number(length); at += 1) (rows[Number(y)] as boolean[])[Number(x) + at] = true;
  }
  return rows;
}

/** Hold *code* before the camera. */
async function look(code: Modules): Promise<void> {
  const [width, height] = [640, 480];
  const scale = Math.floor(height / code.length);
  const luma = Buffer.alloc(width * height, 235);
  for (const [y, row] of code.entries()) {
    for (const [x, dark] of row.entries()) {
      if (!dark) continue;
      for (let line = 0; line < scale; line += 1) {
        const at = (y * scale + line) * width + x * scale + 80;
        luma.fill(16, at, at + scale);
      }
    }
  }
  const chroma = Buffer.alloc((width * height) / 2, 128);
  const frame = Buffer.concat([Buffer.from("FRAME\n"), luma, chroma]);
  const head = Buffer.from(`YUV4MPEG2 W${width} H${height} F10:1 Ip A1:1 C420jpeg\n`);
  await writeFile(SEEN, Buffer.concat([head, frame, frame]));
}
