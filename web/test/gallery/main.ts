/**
 * The screens with the engine of `fake_engine.ts`, to be looked at: `npm start`, then `/test/gallery/index.html`.
 *
 * The query says what to show: `phase`, `empty`, `push`, `offline`, `messages`.
 */

import type { PushState, Status } from "../../src/client/api";
import { BrowserPlatform } from "../../src/platform";
import { show } from "../../src/ui/app";
import { FakeEngine } from "../fake_engine";

const query = new URLSearchParams(location.search);
const engine = new FakeEngine({
  phase: (query.get("phase") ?? "ready") as Status["phase"],
  empty: query.has("empty"),
  push: (query.get("push") ?? "off") as PushState["state"],
  offline: query.has("offline"),
  messages: Number(query.get("messages") ?? 10_000),
});
const place = document.getElementById("app");
if (place) await show(place, { engine, listen: (handler) => engine.listen(handler) }, new BrowserPlatform());
