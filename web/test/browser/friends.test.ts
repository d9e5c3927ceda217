/** The main story: people come by an invitation, add each other, and write, on two phones. */

import { expect, test } from "vitest";
import { cameraPhoto, halves } from "./camera_photo";
import { gone, pathOf, photo, shown, useStage } from "./people";

const stage = useStage();

test("from the invitation to the first message in less than a minute, and then they write to each other", async () => {
  const startedMs = performance.now();
  const ada = await stage.newPhone(pathOf(await stage.server.invite()));
  await ada.join("Ada", await cameraPhoto(ada.page, 600, 800));
  const ben = await stage.phone("Ben");
  await ada.add(await ben.contactLink());
  await ada.write("Hello Ben!");
  await ada.tick("Hello Ben!", "sent", "delivered");
  expect(performance.now() - startedMs).toBeLessThan(60_000);

  await ben.accept("Ada");
  await ben.receive("Hello Ben!");
  await ada.tick("Hello Ben!", "read");
  const face = ben.link(/About this chat$/).locator("img");
  await shown(face);
  expect(await halves(face)).toEqual(["red", "blue"]);

  await ben.field("Message").pressSequentially("Hi ");
  await ada.see("typing …");
  await ben.write("Hi Ada!");
  await ada.receive("Hi Ada!");
  await ben.tick("Hi Ada!", "read");

  await ada.swipe("Hi Ada!");
  await ada.write("How are you?");
  await ben.receive("How are you?");
  await shown(ben.message("How are you?").getByRole("button", { name: /You.*Hi Ada!/ }));
  await ben.choose("How are you?", "Reply");
  await ben.write("Fine.");
  await shown(ada.message("Fine.").getByRole("button", { name: /You.*How are you\?/ }));

  await ada.follow("Fine.", "How are you?");

  const release = await ben.hold("**/v1/blobs/**");
  await ada.sendPhoto("tree.jpg", await cameraPhoto(ada.page, 1500, 3000), "A tree");
  const tree = ben.message("Photo: A tree");
  await shown(tree.getByRole("img", { name: "Loading" }));
  expect(await halves(tree.locator("canvas"))).toEqual(["red", "blue"]);
  expect(await tree.getByRole("img", { name: "Photo: A tree" }).count()).toBe(0);
  release();
  expect(await ben.picture("A tree")).toEqual([1024, 2048]);
  expect(await halves(tree.getByRole("img", { name: "Photo: A tree" }))).toEqual(["red", "blue"]);
  await ada.tick("Photo: A tree", "read");

  await ben.phone.context.route("**/v1/blobs/**", (route) => route.fulfill({ status: 413 }), { times: 1 });
  await ben.sendPhoto("house.png", photo(300, 500, 7), "A house");
  await ben.tick("Photo: A house", "not sent");
  await ben.see(/^The server takes no file as large as this/);
  await ben.message("Photo: A house").getByRole("button", { name: "Send again" }).click();
  expect(await ada.picture("A house")).toEqual([300, 500]);
  await ada.hand("paste", photo(200, 100, 3));
  await ada.sendPicked("Pasted");
  expect(await ben.picture("Pasted")).toEqual([200, 100]);
  await ben.hand("drop", photo(100, 200, 4));
  await ben.sendPicked("Dropped");
  expect(await ada.picture("Dropped")).toEqual([100, 200]);

  expect([...ada.problems, ...ben.alarms]).toEqual([]);
});

test("a chat gets no empty name, and its page says until when it is muted", async () => {
  const [ada] = await stage.friends();
  await ada.link(/About this chat$/).click();
  await ada.button(/^Change the name/).click();
  const name = ada.page.getByRole("dialog").getByRole("textbox");
  for (const empty of ["", "  "]) {
    await name.fill(empty);
    await ada.button("Save").click();
    await ada.see("Type a name.");
    await name.fill("B");
    await gone(ada.page.getByText("Type a name."));
  }
  await name.fill("Benjamin");
  await ada.button("Save").click();
  await shown(ada.heading("Benjamin"));

  const mute = ada.page.getByRole("switch", { name: /^Mute/ });
  for (const [choice, told] of [
    ["For an hour", /^No notifications from this chat until .*\d:\d\d/],
    ["For a week", /^No notifications from this chat until .*\w{3}.*\d:\d\d/],
    ["Always", /^No notifications from this chat$/],
  ] as const) {
    await mute.click();
    await ada.page.getByRole("menuitem", { name: choice }).click();
    await shown(ada.page.getByRole("switch", { name: /^Mute/, checked: true }));
    await ada.see(told);
    await mute.click();
    await shown(ada.page.getByRole("switch", { name: /^Mute/, checked: false }));
  }
  expect(ada.problems).toEqual([]);
});
