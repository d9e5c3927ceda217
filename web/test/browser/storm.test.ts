/**
 * Networks, pages, browsers and the server fail at random while two people write: all arrives once and in order, with its
 * ticks. For `make test-slow`; SEED=n plays one again, ROUNDS=n makes it longer.
 */

import { expect, test } from "vitest";
import { Cable } from "./cable";
import { befriend, kill, PATIENT, photo, shown, type User, useStage } from "./people";

const stage = useStage();
const ROUNDS = Number(process.env.ROUNDS ?? 32);
const SEED = Number(process.env.SEED ?? Math.floor(Math.random() * 1e6));
const PHOTO = "Photo: ";

interface Side {
  user: User;
  readonly cable: Cable;
  /** Where the profile is; null: in memory. */
  readonly folder: string | null;
  readonly other: string;
  readonly texts: string[];
  readonly photos: string[];
}

function dice(seed: number): (sides: number) => number {
  let state = seed;
  return (sides) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return (state >>> 8) % sides;
  };
}

test.runIf(process.env.TAUBE_SLOW)(
  `nothing is lost, nothing comes twice, and each side's order is kept (SEED=${SEED})`,
  async () => {
    const roll = dice(SEED);
    const cables = [await Cable.lay(), await Cable.lay()] as const;
    const folder = await stage.folder();
    const [first, second] = await Promise.all([
      stage.installed(folder, await stage.invitation(), cables[0]),
      stage.phone("Ben", cables[1]),
    ]);
    await first.join("Ada");
    await befriend(first, second);
    await Promise.all([first.kept(), second.kept()]);
    const ada: Side = { user: first, cable: cables[0], folder, other: "Ben", texts: [], photos: [] };
    const ben: Side = { user: second, cable: cables[1], folder: null, other: "Ada", texts: [], photos: [] };
    for (let round = 0; round < ROUNDS; round += 1) {
      const side = roll(2) === 0 ? ada : ben;
      await strike(side, roll);
      if (roll(6) === 0) {
        side.photos.push(`p${round}`);
        await side.user.sendPhoto("photo.png", photo(300, 200, round), `p${round}`);
      } else {
        side.texts.push(`m${round}`);
        await side.user.write(`m${round}`);
      }
    }
    for (const cable of cables) {
      cable.cut(); // what is neither dead nor alive ends
      cable.mend();
    }
    for (const [one, other] of [
      [ada, ben],
      [ben, ada],
    ] as const) {
      await expect.poll(() => sentBy(one, true), { ...PATIENT, timeout: 120_000 }).toEqual(inOrder(one, ", read"));
      expect(await sentBy(other, false)).toEqual(inOrder(one));
    }
    expect([...ada.user.alarms, ...ben.user.alarms]).toEqual([]);
    for (const cable of cables) await cable.remove();
  },
  900_000,
);

/** Something happens to *side*, or to the server. */
async function strike(side: Side, roll: (sides: number) => number): Promise<void> {
  const { cable } = side;
  switch (roll(10)) {
    case 0:
      cable.cut();
      break;
    case 1:
      cable.deafen();
      break;
    case 2:
      cable.choke(roll(3000));
      break;
    case 3:
    case 4:
      cable.mend();
      break;
    case 5:
      await side.user.reload();
      await shown(side.user.field("Message"));
      break;
    case 6:
      side.user = await anotherTab(side, roll(2) === 0);
      break;
    case 7:
      if (side.folder === null) {
        await stage.server.stop("SIGKILL");
        await stage.server.start();
      } else {
        await kill(side.user, side.folder);
        side.user = await stage.installed(side.folder, "/", cable);
        await side.user.open(side.other);
      }
  }
}

async function anotherTab({ user, other }: Side, isClosed: boolean): Promise<User> {
  const tab = await user.newTab();
  if (isClosed) await user.page.close();
  await tab.open(other);
  return tab;
}

/** What *side* has written, as it is read out: texts in order, then photos, which hold up nothing. */
function inOrder(side: Side, end = ""): string[] {
  return [...side.texts.map((text) => text + end), ...side.photos.map((text) => PHOTO + text + end).sort()];
}

/** What stands in the chat that *side* has open: of themselves (*mine*) or of the other; without the greetings. */
async function sentBy({ user }: Side, mine: boolean): Promise<string[]> {
  const rows = (await history(user)).filter((row) => row.startsWith("You, ") === mine && !row.includes("Hello"));
  const said = rows.map((row) => row.replace(/^[^,]+, [^,]+, /, ""));
  return [...said.filter((row) => !row.startsWith(PHOTO)), ...said.filter((row) => row.startsWith(PHOTO)).sort()];
}

/** Every row of the chat that is open, oldest first; they are in the document only while they are in sight. */
async function history(user: User): Promise<string[]> {
  return user.page.getByRole("log", { name: "Messages" }).evaluate(async (log) => {
    const found = new Map<number, string>();
    const rows = () => [...log.querySelectorAll("li")];
    const isDrawn = () => {
      const { top } = log.getBoundingClientRect();
      return rows().some((row) => row.ariaPosInSet === "1" || row.getBoundingClientRect().top < top);
    };
    for (let at = log.scrollHeight; at > -400; at -= 300) {
      log.dispatchEvent(new WheelEvent("wheel", { bubbles: true })); // a list that nobody moves stays at its end
      log.scrollTop = at;
      for (let frames = 0; frames < 2 || (frames < 200 && !isDrawn()); frames += 1)
        await new Promise(requestAnimationFrame);
      for (const row of rows()) found.set(Number(row.ariaPosInSet ?? 0), row.ariaLabel ?? "");
    }
    return [...found.entries()].sort(([one], [other]) => one - other).map(([, label]) => label);
  });
}
