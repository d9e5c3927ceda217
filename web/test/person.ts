/** Someone on the command line of a test server: a home folder, and what one can do with it. */

import { execFile } from "node:child_process";
import { promisify } from "node:util";
import { PYTHON, type TestServer } from "./server";

export class Person {
  readonly home: string;

  private constructor(
    private readonly server: TestServer,
    readonly name: string,
    folder: string,
  ) {
    this.home = server.home(folder);
  }

  /** Someone with an account of this server, whose home is *folder* beside it. */
  static async join(server: TestServer, name: string, folder = name): Promise<Person> {
    const person = new Person(server, name, folder);
    await person.run("join", await server.invite(), "--name", name);
    return person;
  }

  /** What `taube COMMAND --home HOME WORDS…` prints. Rejects unless it succeeds. */
  async run(command: string, ...words: string[]): Promise<string> {
    return (await this.server.taube(command, "--home", this.home, ...words)).stdout;
  }

  /** The JSON objects that a command prints, one for each line. */
  async records(command: string, ...words: string[]): Promise<Record<string, unknown>[]> {
    const lines = (await this.run(command, "--json", ...words)).split("\n").filter((line) => line !== "");
    return lines.map((line) => JSON.parse(line) as Record<string, unknown>);
  }

  /** What a Python program prints that finds the home folder in sys.argv[1], as a bot would. */
  async program(code: string): Promise<string> {
    return (await promisify(execFile)(PYTHON, ["-c", code, this.home], { timeout: 60_000 })).stdout;
  }

  /** The link that others add this person by. */
  async contactLink(): Promise<string> {
    const [me] = await this.records("me");
    return String(me?.contact_link);
  }
}
