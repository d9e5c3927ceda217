/** The account itself: coming in, what the server knows of it, which build one runs, losing it, and deleting it. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { expect, test } from "vitest";
import { PYTHON } from "../server";
import { gone, PATIENT, pathOf, shown, type User, useStage } from "./people";

const stage = useStage();

test("who has no invitation is told how to get one", async () => {
  const user = await stage.newPhone();
  await user.button("I have no invitation").click();
  await shown(user.heading("How to get an invitation"));
  await user.see("Ask the person who told you about Taube.");
  await user.see(new RegExp(`Whoever runs \\S*${new URL(stage.server.origin).host}\\S* can make an invitation`));
  await user.button("Back").click();
  await shown(user.button("I have no invitation"));
  expect(user.problems).toEqual([]);
});

test("an invitation that does not work says why, in one sentence", async () => {
  const [used, fresh, old] = await Promise.all([stage.server.invite(), stage.server.invite(), expired()]);
  await (await stage.newPhone(pathOf(used))).join("Somebody");
  const altered = fresh.slice(0, -5) + (fresh.at(-5) === "A" ? "B" : "A") + fresh.slice(-4);
  const user = await stage.newPhone(pathOf(used));
  const tried: [string, RegExp][] = [
    [used, /^This invitation has been used up\. Ask for a new one\.$/],
    [altered, /^The server does not know this invitation\./],
    [old, /^This invitation has expired\. Ask for a new one\.$/],
  ];
  for (const [link, sentence] of tried) {
    await user.page.goto(stage.server.origin + pathOf(link));
    await shown(user.heading("You are invited"));
    await user.field("Your name").fill("Late");
    await user.button("Start").click();
    await user.see(sentence);
  }
  await user.page.goto(stage.server.origin + pathOf(fresh.slice(0, -4)));
  await shown(user.heading("Open your invitation"));
  await user.see(/^That is not a Taube link\./);
  const link = user.field("Or paste the invitation link");
  await link.fill(fresh.replace(stage.server.origin, "https://elsewhere.example"));
  await user.button("Continue").click();
  await user.see(/^This invitation is for \S*elsewhere\.example\S*\. Open the link itself/);
  await link.fill("hello");
  await user.button("Continue").click();
  await user.see(/^That is not a Taube link\./);
  await link.fill(fresh);
  await user.button("Continue").click();
  await user.join("Late");
  expect(user.problems).toEqual([]);
});

test("who has an account is told so when they open an invitation", async () => {
  const ada = await stage.phone("Ada");
  await ada.page.goto(stage.server.origin + (await stage.invitation()));
  await ada.see(/^That is an invitation, not a contact link\. You have an account already/);
  await shown(ada.heading("No chats yet"));
  expect(ada.problems).toEqual([]);
});

test("a contact link that comes before the invitation is kept until there is an account", async () => {
  const ada = await stage.phone("Ada");
  const ben = await stage.newPhone(pathOf(await ada.contactLink()));
  await ben.see(/^Somebody gave you their contact link\./);
  await ben.page.goto(stage.server.origin + (await stage.invitation()));
  await shown(ben.heading("You are invited"));
  await ben.field("Your name").fill("Ben");
  await ben.button("Start").click();
  await ben.see(/This is the link of \S*Ada/);
  await ben.button("Start the chat").click();
  await ben.write("Found you!");
  await ada.accept("Ben");
  await ada.receive("Found you!");
  expect([...ada.problems, ...ben.problems]).toEqual([]);
});

test("what the server knows is what its ledger says, and the build is the one it gives out", async () => {
  const ada = await stage.phone("Ada");
  await ada.phone.context.grantPermissions(["clipboard-write"]);
  await ada.go("#/settings/about");
  const { app } = (await (await fetch(`${stage.server.origin}/.well-known/taube`)).json()) as { app: string };
  expect(app).toMatch(/^[0-9a-f]{64}$/);
  await ada.see(app);
  await gone(ada.page.getByText("The server gives out another build"));
  const account = await idOf(ada);

  await ada.go("#/settings/server");
  await shown(ada.heading("What it does not know"));
  const shownFacts = await ada.page.locator("details.fact").evaluateAll((all) =>
    all.map((each) => ({
      entry: each.querySelector(".fact-name")?.textContent ?? "",
      why: each.querySelector(".row-text")?.textContent ?? "",
      values: [...each.querySelectorAll("li")].map((one) => one.textContent ?? ""),
    })),
  );
  for (const { entry, why, values } of shownFacts) {
    expect(entry).toMatch(/^[A-Z]/); // in words, not as the ledger's name
    expect(why).not.toMatch(/no words for yet/);
    expect(values.join()).not.toBe("");
  }
  await ada.button("Copy as JSON").click();
  await ada.see("Copied.");
  await ada.go("#/search");
  const field = ada.page.getByRole("searchbox");
  await field.press("Control+V");
  const copied = JSON.parse(await field.inputValue()) as Fact[];
  expect(copied.map(({ value }) => value)).toEqual(shownFacts.flatMap(({ values }) => values));
  const known = (await knows(account)).map(({ entry }) => entry);
  expect(known.length).toBeGreaterThan(2);
  expect(copied.map(({ entry }) => entry)).toEqual(expect.arrayContaining(known));
  expect(JSON.stringify(copied)).toContain(account);
  expect(JSON.stringify(copied)).not.toContain("Ada");
  expect(ada.problems).toEqual([]);
});

test("the build that is shown is the one that runs, whatever the server gives out meanwhile, and without a network", async () => {
  const ada = await stage.phone("Ada");
  const { context } = ada.phone;
  const { app } = (await (await fetch(`${stage.server.origin}/.well-known/taube`)).json()) as { app: string };
  await ada.kept();
  const other = "0123456789abcdef".repeat(4);
  await context.route(/\/(build\.json|\.well-known\/taube)$/, async (route) => {
    const response = await route.fetch();
    await route.fulfill({ response, json: { ...(await response.json()), hash: other, app: other } });
  });
  await ada.go("#/settings/about");
  await ada.reload();
  await ada.see(app);
  await ada.see("The server gives out another build");
  await ada.see(other);

  await context.unrouteAll();
  await context.setOffline(true);
  await ada.reload();
  await ada.see(app);
  await gone(ada.page.getByText("The server gives out another build"));
  expect(ada.alarms).toEqual([]);
});

test("an account that is deleted is gone from the server and from the device, and its friends cannot reach it", async () => {
  const [ada, ben] = await Promise.all([stage.phone("Ada"), stage.phone("Ben")]);
  await ben.add(await ada.contactLink());
  await ben.write("Hello Ada!");
  await ada.accept("Ben");
  await ada.write("Hello Ben!");
  await ben.tick("Hello Ada!", "read");
  await ada.kept();
  await ada.phone.context.grantPermissions(["notifications"]);
  await ada.page.evaluate(async () => {
    const worker = await navigator.serviceWorker.ready;
    await worker.showNotification("Ben", { body: "Hello Ada!", tag: "a chat" });
  });
  const notes = async () => (await (await navigator.serviceWorker.ready).getNotifications()).length;
  expect(await ada.page.evaluate(notes)).toBe(1);
  const account = await idOf(ada);
  await ada.go("#/settings");
  await ada.link("Delete account").click();
  for (const words of [
    "The server deletes your account, your keys and the messages that wait for you, at once.",
    "All chats and photos on this device are deleted.",
    "What others have received stays with them. They can no longer write to you.",
    "Nobody can undo this, not even whoever runs the server.",
  ])
    await ada.see(words);
  const sure = ada.button("Delete my account for good");
  await sure.click();
  await ada.see(/^Type \S*DELETE\S* to confirm that you mean it\.$/);
  await ada.page.getByRole("textbox").fill("delete");
  await sure.click();
  await shown(ada.heading("Your account is deleted"));

  const left = await ada.page.evaluate(async () => ({
    databases: (await indexedDB.databases()).map(({ name }) => name),
    mark: await caches.has("taube-mark"),
    words: JSON.stringify({ ...localStorage }),
  }));
  expect(left.databases).toEqual([]);
  expect(left.mark).toBe(false);
  expect(left.words).not.toMatch(/Ada|Ben|#|account/);
  await expect.poll(() => ada.page.evaluate(notes), PATIENT).toBe(0);
  await expect(knows(account)).rejects.toThrow();
  await ben.write("Are you there?");
  await ben.tick("Are you there?", "not sent");
  await ben.see("This did not reach anybody. They may not use this account any more.");
  await ben.receive("Hello Ben!");

  await ada.reload();
  await shown(ada.button("I have an invitation"));
  await ada.page.goto(stage.server.origin + (await stage.invitation()));
  await ada.join("Ada again");
  expect([...ada.problems, ...ben.problems]).toEqual([]);
});

test("an account whose deletion failed without a network lives on when the network is back", async () => {
  const [ada, ben] = await stage.friends();
  await ada.kept();
  await ada.go("#/settings/delete");
  await ada.page.getByRole("textbox").fill("delete");
  await ada.phone.context.setOffline(true);
  await ada.button("Delete my account for good").click();
  await ada.see("Your account can be deleted only while you are connected.");
  await ada.phone.context.setOffline(false);
  await ben.write("Are you there?");
  await ben.tick("Are you there?", "delivered", "read");
  await ada.home();
  await ada.open("Ben");
  await ada.receive("Are you there?");
  expect(ada.alarms).toEqual([]);
  expect(ben.problems).toEqual([]);
});

test("a browser that threw everything away is told on, and one can begin again", async () => {
  const ada = await stage.phone("Ada");
  await ada.page.goto("about:blank");
  const devtools = await ada.phone.context.newCDPSession(ada.page);
  await devtools.send("Storage.clearDataForOrigin", {
    origin: stage.server.origin,
    storageTypes: "indexeddb,cache_storage,service_workers", // what Chromium throws away together when space is short
  });
  await ada.page.goto(stage.server.origin);
  await shown(ada.heading("Your browser has deleted your messages"));
  await ada.see("They cannot be brought back.");
  await ada.reload();
  await ada.button("Start again").click();
  await ada.button("I have an invitation").click();
  await ada.field("Or paste the invitation link").fill(stage.server.origin + (await stage.invitation()));
  await ada.button("Continue").click();
  await ada.join("Ada");
  await ada.reload();
  await shown(ada.heading("No chats yet"));
  await gone(ada.heading("Your browser has deleted your messages"));
  expect(ada.problems).toEqual([]);
});

interface Fact {
  entry: string;
  value: string;
}

/** What the operator's own command says of an account. */
async function knows(account: string): Promise<Fact[]> {
  const { stdout } = await stage.server.taube("admin", "knows", account, "--data", stage.server.home("server"));
  const lines = stdout.split("\n").filter((line) => line !== "");
  return lines.map((line) => JSON.parse(line) as Fact);
}

async function idOf(user: User): Promise<string> {
  await user.go("#/settings/about");
  const id = user.page.getByText(/^[0-9a-f]{64}$/).last();
  await shown(id);
  return (await id.textContent()) ?? "";
}

/** An invitation whose week ended three days ago. */
async function expired(): Promise<string> {
  const code = [
    "import pathlib, sys, time",
    "from taube.server import admin",
    "admin._now_ms = lambda: int(time.time() * 1000) - 10 * 86_400_000",
    "print(admin.invite(pathlib.Path(sys.argv[1])))",
  ];
  const { stdout } = await promisify(execFile)(PYTHON, ["-c", code.join("\n"), stage.server.home("server")]);
  return stdout.trim();
}
