/** The engine's worker: hosts the engine beside the page and answers what the page asks. */

import type { Engine, EngineEvent } from "./client/api";
import { failureOf } from "./client/errors";
import { openEngine } from "./engine";
import { METHODS } from "./hosted";
import { type Host, serve } from "./rpc";

declare const self: DedicatedWorkerGlobalScope;

const account = openEngine({ live: true });
const host: Host<EngineEvent> = serve<Engine, EngineEvent>(self, METHODS, account, failureOf);

account.then((opened) => opened.listen((event) => host.tell(event)));
