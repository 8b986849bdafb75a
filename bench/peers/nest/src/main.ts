// NestJS's own way to request/reply over Kafka: ClientKafka on the fastify platform.
//
// In its favour, beyond the documentation: TCP_NODELAY (kafkajs never sets it), a short fetch wait, no commit after each
// fetch, and bodies passed as bytes in both directions instead of being parsed and written again as JSON. kafkajs has no
// linger: each request is a produce request of its own.
import "reflect-metadata";
import { connect as connectTcp } from "node:net";
import {
  Controller, GatewayTimeoutException, Header, HttpCode, Inject, Module, type OnModuleInit, Post, Req,
} from "@nestjs/common";
import { NestFactory } from "@nestjs/core";
import { ClientKafka, ClientsModule, Transport } from "@nestjs/microservices";
import { FastifyAdapter, type NestFastifyApplication } from "@nestjs/platform-fastify";
import { catchError, firstValueFrom, timeout, TimeoutError } from "rxjs";

const replyTimeoutMs = 5_000;

function setting(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}

const requestTopic = setting("BENCH_REQUEST_TOPIC");

@Controller()
class Gateway implements OnModuleInit {
  constructor(@Inject("KAFKA") private readonly kafka: ClientKafka) {}

  async onModuleInit(): Promise<void> {
    this.kafka.subscribeToResponseOf(requestTopic); // its replies come on "<topic>.reply"
    await this.kafka.connect();
  }

  @Post("orders")
  @HttpCode(200)
  @Header("content-type", "application/json")
  orders(@Req() request: { body: Buffer }): Promise<Buffer> {
    return this.ask(requestTopic, request.body, replyTimeoutMs);
  }

  private ask(topic: string, body: Buffer, waitMs: number): Promise<Buffer> {
    const reply = this.kafka.send<Buffer>(topic, { value: body }).pipe(
      timeout(waitMs),
      catchError((error) => {
        throw error instanceof TimeoutError ? new GatewayTimeoutException("no reply in time") : error;
      }),
    );
    return firstValueFrom(reply);
  }
}

@Module({
  imports: [
    ClientsModule.register([
      {
        name: "KAFKA",
        transport: Transport.KAFKA,
        options: {
          client: {
            clientId: "bench",
            brokers: [setting("BENCH_BOOTSTRAP")],
            socketFactory: ({ host, port, onConnect }) => connectTcp({ host, port, noDelay: true }, onConnect),
          },
          consumer: { groupId: `bench-${process.pid}`, maxWaitTimeInMs: 50 },
          run: { autoCommit: false },
          producer: { allowAutoTopicCreation: false },
          send: { acks: -1 },
          parser: { keepBinary: true },
        },
      },
    ]),
  ],
  controllers: [Gateway],
})
class Bench {}

const adapter = new FastifyAdapter();
const app = await NestFactory.create<NestFastifyApplication>(Bench, adapter, { logger: ["error"], bodyParser: false });
adapter.getInstance().addContentTypeParser("application/json", { parseAs: "buffer" },
  (_request: unknown, body: Buffer, done: (error: Error | null, body: Buffer) => void) => done(null, body));
app.enableShutdownHooks();
await app.listen({ port: Number(setting("BENCH_PORT")), host: "127.0.0.1", backlog: 4096 });
