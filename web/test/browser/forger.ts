/**
 * A client of somebody's own making: people who send contents, names and files that no client of ours would send.
 *
 *     await forge(stage, [{ link: await ada.contactLink(), name: "Mallory", contents: [text("<b>"), [77, "?"]] }]);
 *
 * They have accounts of this server, add whoever gave out the link, and are gone once everything was sent. What they
 * send goes through the encryption as it is; nothing of it is checked here.
 */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { PYTHON } from "../server";
import type { Stage } from "./people";

export type Field = string | number | boolean | { hex: string } | Field[];
/** A content as it stands inside the encryption: its kind, and the fields behind the header. */
export type Raw = [kind: number, ...fields: Field[]];

export interface RawFile {
  /** Where its bytes lie. */
  path: string;
  /** What the content says of it. */
  mediaType: string;
  name: string;
  caption: string;
  width?: number;
  height?: number;
  /** In hexadecimal. */
  thumbhash?: string;
  size?: number;
}

export interface Forger {
  /** The contact link of whom they write to. */
  link: string;
  /** By which they go at first. */
  name: string;
  contents: Raw[];
  /** What each of them says of when it was sent; those that have none here tell the truth. */
  sentAtMs?: number[];
  files?: RawFile[];
}

export const text = (words: string): Raw => [1, words, { hex: "" }];
export const profile = (name: string, picture = ""): Raw => [4, name, { hex: picture }];

const PROGRAM = `
import asyncio, json, os, sys
from taube.client import content
from taube.client.account import Account
from taube.wire.packing import pack

def plain(x):
    return bytes.fromhex(x["hex"]) if isinstance(x, dict) else [plain(y) for y in x] if isinstance(x, list) else x

async def act(home, what):
    async with await Account.join(home, what["invitation"], name=what["name"]) as me:
        chat = await me.add(what["link"])
        engine = me._engine
        clocks = what.get("sentAtMs", [])
        for index, (kind, *fields) in enumerate(what["contents"]):
            def make(message, sequence, now_ms):
                at_ms = clocks[index] if index < len(clocks) else now_ms
                raw = pack([kind, message, sequence, at_ms, *map(plain, fields)])
                return content.Unknown(kind, message, sequence, at_ms, raw)
            engine.outbox.queue(chat._row, make)
        for one in what.get("files", []):
            size = os.path.getsize(one["path"])
            with open(one["path"], "rb") as source:
                sealed = await engine.files.seal(source, size)
            def hold(message, sequence, at_ms):
                return content.Media(
                    message, sequence, at_ms, sealed.name, sealed.key, sealed.hash, one.get("size", size),
                    one["mediaType"], one.get("width", 0), one.get("height", 0),
                    bytes.fromhex(one.get("thumbhash", "")), one["caption"], b"", one["name"],
                )
            number = engine.outbox.hold(chat._row, hold, sealed.secret)
            await me.settle(me._message(chat._row.id, number), 30)
        assert await me.wait_settled(30), me.last_problem

async def main():
    for home, what in zip(sys.argv[1:], json.loads(WHAT)):
        await act(home, what)

asyncio.run(main())
`;

let forgers = 0;

/** All of them, one after the other. Resolves when the server has taken everything. */
export async function forge(stage: Stage, people: Forger[]): Promise<void> {
  const { server } = stage;
  const invitation = server.origin + (await stage.invitation());
  const homes = people.map(() => {
    forgers += 1;
    return server.home(`forger-${forgers}`);
  });
  const what = JSON.stringify(people.map((each) => ({ ...each, invitation })));
  const program = `WHAT = ${JSON.stringify(what)}\n${PROGRAM}`;
  await promisify(execFile)(PYTHON, ["-c", program, ...homes], { timeout: 60_000 });
}
