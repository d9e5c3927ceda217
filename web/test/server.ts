/** A real server for tests: `taube serve` in a process of its own, on loopback, in a folder that goes with it. */

import { type ChildProcess, execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { type AddressInfo, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import { decodeBase64 } from "../src/bytes";

const ROOT = fileURLToPath(new URL("../..", import.meta.url));
/** The Python that has everything. */
export const PYTHON = join(ROOT, ".venv/bin/python");
const run = promisify(execFile);

export class TestServer {
  private process: ChildProcess | null = null;
  private port = 0;
  origin = "";

  private constructor(
    private readonly folder: string,
    /** The name that the server goes by over TLS; null for http on loopback. */
    readonly name: string | null,
    private readonly hasSettings: boolean,
  ) {}

  /** *settings*: what stands in its settings file, TOML. */
  static async start(name: string | null = null, settings = ""): Promise<TestServer> {
    const server = new TestServer(await mkdtemp(join(tmpdir(), "taube-web-")), name, settings !== "");
    if (settings !== "") await writeFile(join(server.folder, "settings.toml"), settings);
    if (name !== null) await server.makeCertificate(name);
    await server.start();
    return server;
  }

  get certificate(): string {
    return join(this.folder, "tls", `${this.name}.crt`);
  }

  /** Where the server really listens. */
  get address(): string {
    return `127.0.0.1:${this.port}`;
  }

  /** Start it, or start it again where it was; *program*: the folder of another version of the program. */
  async start(program: string | null = null): Promise<void> {
    this.port ||= await freePort();
    const options = ["--data", join(this.folder, "server"), "--listen", this.address];
    if (this.name !== null) {
      options.push("--url", `https://${this.name}`, "--tls-cert", this.certificate);
      options.push("--tls-key", join(this.folder, "tls", `${this.name}.key`));
    }
    if (this.hasSettings) options.push("--config", join(this.folder, "settings.toml"));
    const started = spawn(PYTHON, ["-m", "taube", "serve", ...options], {
      cwd: ROOT,
      env: program === null ? process.env : { ...process.env, PYTHONPATH: program },
      stdio: ["ignore", "pipe", "pipe"],
    });
    this.process = started;
    const said: string[] = [];
    started.stderr?.on("data", (data) => said.push(String(data)));
    for await (const line of createInterface({ input: started.stdout as NodeJS.ReadableStream })) {
      if (!line.startsWith("ready ")) continue;
      this.origin = line.slice("ready ".length);
      return;
    }
    throw new Error(`the server did not start: ${said.join("")}`);
  }

  /** Stop it in good order, or at once with SIGKILL. */
  async stop(signal: "SIGTERM" | "SIGKILL" = "SIGTERM"): Promise<void> {
    const { process } = this;
    this.process = null;
    if (process === null || process.exitCode !== null) return;
    const ended = new Promise((resolve) => process.once("exit", resolve));
    process.kill(signal);
    await ended;
  }

  /** Hold it for so long: what comes meanwhile waits, and it finds that it is late. */
  async hold(ms: number): Promise<void> {
    await this.holdDuring(() => new Promise((resolve) => setTimeout(resolve, ms)));
  }

  /** While *work* is done, it does nothing; what is sent to it waits. */
  async holdDuring<T>(work: () => Promise<T>): Promise<T> {
    this.process?.kill("SIGSTOP");
    try {
      return await work();
    } finally {
      this.process?.kill("SIGCONT");
    }
  }

  /** Stop it and remove its folder. */
  async remove(): Promise<void> {
    await this.stop();
    await rm(this.folder, { recursive: true, force: true });
  }

  /** An invitation link for so many people. */
  async invite(uses = 1): Promise<string> {
    const { stdout } = await this.taube("admin", "invite", "--data", join(this.folder, "server"), "--uses", `${uses}`);
    return stdout.trim();
  }

  /** The invitation that a link carries: 16 bytes. */
  async invitation(): Promise<Uint8Array<ArrayBuffer>> {
    return decodeBase64((await this.invite()).split("#")[1] ?? "");
  }

  /** What the server holds about an account, as its operator can ask it. */
  async knows(account: string): Promise<{ entry: string; value: string }[]> {
    const { stdout } = await this.taube("admin", "knows", account, "--data", join(this.folder, "server"));
    const lines = stdout.split("\n").filter((line) => line !== "");
    return lines.map((line) => JSON.parse(line) as { entry: string; value: string });
  }

  /** Run the command line; for a person with `--home` and a folder that `home` named. */
  async taube(...command: string[]): Promise<{ stdout: string; stderr: string }> {
    return run(PYTHON, ["-m", "taube", ...command], { cwd: ROOT, timeout: 60_000 });
  }

  private async makeCertificate(name: string): Promise<void> {
    const make = "import pathlib, sys; from taube.testing import make_certificate; ";
    const call = "make_certificate(pathlib.Path(sys.argv[1]), sys.argv[2])";
    await run(PYTHON, ["-c", make + call, join(this.folder, "tls"), name], { cwd: ROOT });
  }

  /** A folder for a person of the command line; it goes with the server. */
  home(name: string): string {
    return join(this.folder, name);
  }
}

async function freePort(): Promise<number> {
  const listening = createServer().listen(0, "127.0.0.1");
  await once(listening, "listening");
  const { port } = listening.address() as AddressInfo;
  listening.close();
  await once(listening, "close");
  return port;
}
