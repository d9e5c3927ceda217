/** Someone on a command line and someone on a phone: what the one sends, the other has. */

import { readFile, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { expect, test } from "vitest";
import { headOf } from "../../src/client/pictures";
import { cameraPhoto, PRIVATE } from "./camera_photo";
import { photo, shown, useStage } from "./people";

const stage = useStage();

/** Answers the newest text of Ada, waits until she has read that, and prints what became of what was sent. */
const ANSWER = `
import asyncio, sys
from taube.client.account import Account

async def main():
    async with Account.open(sys.argv[1]) as me:
        chat = me.chat("Ada")
        newest = [message for message in chat.messages() if message.kind == "text" and not message.mine][-1]
        answer = await chat.send_text("An answer from the terminal", reply_to=newest)
        async for _ in me.events():
            states = {message.id: message.state for message in chat.messages() if message.mine}
            if states[answer.id] == "read":
                break
        print(*(states.values()))

asyncio.run(asyncio.wait_for(main(), 60))
`;

/** Sends more than a page of the chat's history has, answers its first text then, and waits until all that is read. */
const REMEMBER = `
import asyncio, sys
from taube.client.account import Account

async def main():
    async with Account.open(sys.argv[1]) as me:
        chat = me.chat("Ada")
        first = next(message for message in chat.messages() if message.kind == "text")
        for n in range(60):
            await chat.send_text(f"line {n}")
        newest = await chat.send_text("Do you remember?", reply_to=first)
        async for _ in me.events():
            if any(message.id == newest.id and message.state == "read" for message in chat.messages()):
                break

asyncio.run(asyncio.wait_for(main(), 60))
`;

test("they write to each other: texts, answers, photos, and each sees what the other has read", async () => {
  const [ada, carl] = await Promise.all([stage.phone("Ada"), stage.person("Carl")]);
  await carl.run("add", await ada.contactLink());
  await carl.run("send", "Ada", "Hello from the terminal");
  await ada.accept("Carl");
  await ada.receive("Hello from the terminal");

  await ada.write("Hello from the phone");
  await ada.tick("Hello from the phone", "sent", "delivered");
  const texts = await carl.records("read", "--wait", "30");
  expect(texts).toMatchObject([{ from: "Ada", kind: "text", text: "Hello from the phone" }]);
  await ada.tick("Hello from the phone", "read");

  const answering = carl.program(ANSWER);
  await shown(ada.message("An answer from the terminal").getByRole("button", { name: /You.*Hello from the phone/ }));
  expect((await answering).trim()).toBe("read read");
  await ada.choose("An answer from the terminal", "Reply");
  await ada.write("An answer from the phone");
  await ada.tick("An answer from the phone", "sent", "delivered");
  const [answer] = await carl.records("read", "--wait", "30");
  expect(answer).toMatchObject({ text: "An answer from the phone", reply_to: expect.stringMatching(/^[0-9a-f]{32}$/) });

  const tree = join(carl.home, "tree.png");
  await writeFile(tree, photo(320, 240));
  await carl.run("send", "Ada", "--file", tree, "A tree");
  expect(await ada.picture("A tree")).toEqual([320, 240]);
  const taken = await cameraPhoto(ada.page, 1500, 3000);
  expect(PRIVATE.filter((each) => taken.includes(each))).toEqual(PRIVATE);
  await ada.sendPhoto("house.jpg", taken, "A house");
  await ada.tick("A house", "sent", "delivered");
  const [house] = await carl.records("read", "--wait", "30", "--save", carl.home);
  expect(house).toMatchObject({ kind: "media", text: "A house", width: 1024, height: 2048 });
  const arrived = await readFile(String(house?.saved));
  expect(arrived.length).toBe(house?.size);
  expect(PRIVATE.filter((each) => arrived.includes(each))).toEqual([]);
  expect(headOf(arrived)).toEqual({ type: "image/webp", width: 1024, height: 2048 });
  await ada.tick("A house", "read");

  await carl.program(REMEMBER);
  await ada.receive("Do you remember?");
  await ada.reload(); // what is read again is the end of the history
  await ada.receive("Do you remember?");
  expect(await ada.messages.last().getAttribute("aria-setsize")).toBe("-1");
  await ada.follow("Do you remember?", "Hello from the terminal");
  expect(ada.problems).toEqual([]);
});
