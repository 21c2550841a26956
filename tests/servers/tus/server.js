// The tus project's own server with its file store, over HTTP and HTTPS, as one process:
//   node server.js '{"root": DIR, "http": PORT, "tls": PORT, "chain": FILE, "key": FILE, ...}'
const fs = require('node:fs')
const http = require('node:http')
const https = require('node:https')
const {createRequire} = require('node:module')

const config = JSON.parse(process.argv[2])
const load = createRequire(`${config.modules}/`)
const {Server} = load('@tus/server')
const {FileStore} = load('@tus/file-store')

const tus = new Server({
  path: '/files',
  datastore: new FileStore({
    directory: config.root,
    expirationPeriodInMilliseconds: config.expire_ms,
  }),
  maxSize: config.max_size || undefined,
  relativeLocation: config.relative,
  // What belongs to one who is signed in: everybody else is refused.
  async onIncomingRequest(request) {
    if (config.authorization && request.headers.authorization !== config.authorization) {
      throw {status_code: 401, body: 'who are you?\n'}
    }
  },
})

const handle = tus.handle.bind(tus)
const tls = {cert: fs.readFileSync(config.chain), key: fs.readFileSync(config.key)}
http.createServer({requestTimeout: 0}, handle).listen(config.http, '127.0.0.1')
https.createServer({requestTimeout: 0, ...tls}, handle).listen(config.tls, '127.0.0.1')
