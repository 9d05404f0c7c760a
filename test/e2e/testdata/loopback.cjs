// Resolves every name below localhost to this machine, as browsers and curl do and Node.js does not everywhere.
const dns = require('node:dns')
const lookup = dns.lookup
dns.lookup = (host, options, callback) => lookup(host.endsWith('.localhost') ? '127.0.0.1' : host, options, callback)
