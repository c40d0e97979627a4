/**
 * memformer in NestJS: a model is a provider, opened before the first request and freed when the application shuts
 * down.
 */
import "reflect-metadata";
import { Body, Controller, Inject, Module, Post, type DynamicModule, type OnApplicationShutdown } from "@nestjs/common";
import { Memformer } from "../../lib/index.ts";

export const MODEL = Symbol("model");

@Controller("continuations")
export class Continuations {
  constructor(@Inject(MODEL) private readonly model: Memformer) {}

  @Post()
  async continue(@Body() { text, maxTokens = 100 }: { text: string; maxTokens?: number }): Promise<{ text: string }> {
    using session = await this.model.session();
    await session.read(text);
    let continuation = "";
    for await (const piece of session.generate({ maxTokens: Math.min(maxTokens, 1000) })) continuation += piece;
    return { text: continuation };
  }
}

@Module({})
export class MemformerModule implements OnApplicationShutdown {
  constructor(@Inject(MODEL) private readonly model: Memformer) {}

  /** Needs `app.enableShutdownHooks()` to hear signals. */
  async onApplicationShutdown(): Promise<void> {
    await this.model.dispose();
  }

  static forFolder(folder: string): DynamicModule {
    const model = { provide: MODEL, useFactory: async () => Memformer.load(folder) };
    return { module: MemformerModule, controllers: [Continuations], providers: [model], exports: [MODEL] };
  }
}
