// Fastify's proxy, which is made of its reply-from: http_proxy.cjs PORT ORIGIN PREFIX BASE SECONDS
"use strict";

const [port, upstream, prefix, rewritePrefix, seconds] = process.argv.slice(2);
const limit = 1000 * Number(seconds);
const fastify = require("fastify")({ bodyLimit: 1024 * 1024 * 1024 });

fastify.register(require("@fastify/http-proxy"), {
  upstream,
  prefix,
  rewritePrefix,
  websocket: true,
  undici: { connections: 100, connect: { timeout: limit }, headersTimeout: limit, bodyTimeout: limit },
});
fastify.listen({ host: "127.0.0.1", port: Number(port) }).catch((error) => {
  console.error(error.message);
  process.exit(1);
});
