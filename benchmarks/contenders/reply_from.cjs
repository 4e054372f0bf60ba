// Fastify's proxy: reply_from.cjs PORT UPSTREAM[,UPSTREAM...]
"use strict";

const fastify = require("fastify")({ bodyLimit: 1024 * 1024 });
const origins = process.argv[3].split(",");
let count = 0;

// Bodies are sent on as they come.
fastify.removeAllContentTypeParsers();
fastify.addContentTypeParser("*", (request, payload, done) => done(null, payload));
fastify.register(require("@fastify/reply-from"), { undici: { connections: 100 } });
fastify.all("/:size", (request, reply) => {
  reply.from(origins[count++ % origins.length] + request.url);
});
fastify.listen({ host: "127.0.0.1", port: Number(process.argv[2]) }).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
