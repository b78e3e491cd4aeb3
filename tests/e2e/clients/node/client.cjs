// Everything that node's pg does in daily life. Prints one line per step; a governed run must print what a direct run prints.
'use strict'

const crypto = require('node:crypto')
const fs = require('node:fs')
const { createRequire } = require('node:module')
const { Readable } = require('node:stream')
const { pipeline } = require('node:stream/promises')

// The drivers are not beside this file: the first argument is the folder that holds node_modules.
const load = createRequire(`${process.argv[2]}/package.json`)
const { Client } = load('pg')
const Cursor = load('pg-cursor')
const copy = load('pg-copy-streams')

const digest = (data) => `${data.length} ${crypto.createHash('sha256').update(data).digest('hex').slice(0, 16)}`
const failure = (error) => [error.code, error.severity, error.message, error.detail, error.hint, error.position]
const settings = () => ({
  ssl: { ca: fs.readFileSync(process.env.PGSSLROOTCERT, 'utf8'), rejectUnauthorized: true },
})
const attempt = async (promise) => {
  try {
    const result = await promise
    return result.rows ?? result
  } catch (error) {
    return failure(error)
  }
}

async function connect() {
  const client = new Client(settings())
  await client.connect()
  return client
}

const steps = {
  async simple(client) {
    const result = await client.query("select 1 as one, 'two' as two, null as nothing, 3.5::float8 as f")
    return [result.fields.map((field) => [field.name, field.dataTypeID]), result.rows, result.command, result.rowCount]
  },
  async several_statements(client) {
    const results = await client.query('select 1 as a; select 2 as b; select 3 as c where false')
    return results.map((result) => [result.command, result.rows])
  },
  async parameters(client) {
    const values = [7, "it's ü 🦖", null, true, Buffer.from([0, 255]), [1, 2], { k: 'ü' }]
    return (await client.query('select $1::int a, $2::text b, $3::text c, $4::bool d, $5::bytea e, $6::int[] f, $7::jsonb g', values)).rows
  },
  async prepared(client) {
    const found = []
    for (let n = 0; n < 5; n++) {
      found.push((await client.query({ name: 'doubled', text: 'select $1::int * 2 as twice', values: [n] })).rows)
    }
    return found
  },
  async binary(client) {
    return (await client.query({ text: "select 7::int4, 'x'::text, true", values: [], binary: true, rowMode: 'array' })).rows
  },
  async rows(client) {
    await client.query('create table drvn_rows (id int primary key, word text)')
    for (let n = 0; n < 20; n++) await client.query('insert into drvn_rows values ($1, $2)', [n, `word ${n}`])
    const changed = await client.query('update drvn_rows set word = upper(word) where id < 5')
    return [changed.command, changed.rowCount, (await client.query('select * from drvn_rows order by id limit 7')).rows]
  },
  async queued_queries(client) {
    // pg sends the next query when the one before is done; the queue is filled at once.
    const results = await Promise.all([...Array(20).keys()].map((n) => client.query('select $1::int as n', [n])))
    return results.map((result) => result.rows[0].n)
  },
  async pipeline() {
    const client = new Client({ ...settings(), pipeline: true })
    await client.connect()
    const all = [...Array(20).keys()].map((n) => attempt(client.query('select 10 / ($1::int - 10) as n', [n])))
    const found = await Promise.all(all)
    await client.end()
    return found
  },
  async cursor(client) {
    const cursor = client.query(new Cursor('select n, n * n as square from generate_series(1, $1::int) n', [30]))
    const found = [await cursor.read(4), await cursor.read(10), (await cursor.read(100)).length, await cursor.read(1)]
    await cursor.close()
    await client.query('begin')
    await client.query('declare wander scroll cursor for select n from generate_series(1, 10) n')
    found.push((await client.query('fetch 3 from wander')).rows, (await client.query('fetch backward 2 from wander')).rows)
    await client.query('commit')
    return found
  },
  async copy_both_ways(client) {
    await client.query('create table drvn_copy (id int, body text)')
    const lines = [...Array(3000).keys()].map((n) => `${n}\t${n % 9 === 0 ? '\\N' : `line ${n} ü`}\n`)
    const into = client.query(copy.from('copy drvn_copy from stdin'))
    await pipeline(Readable.from(lines), into)
    const parts = []
    const out = client.query(copy.to('copy (select * from drvn_copy order by id) to stdout (format csv, header)'))
    for await (const part of out) parts.push(part)
    return [into.rowCount, digest(Buffer.concat(parts)), out.rowCount]
  },
  async listen_and_notify(client) {
    const heard = []
    const done = new Promise((resolve) => {
      client.on('notification', (note) => heard.push([note.channel, note.payload]) === 2 && resolve())
    })
    await client.query('listen drvn_channel')
    const other = await connect()
    await other.query("notify drvn_channel, 'first'")
    await other.query("select pg_notify('drvn_channel', $1)", ['second ü'])
    await other.end()
    await done
    await client.query('unlisten *')
    return heard
  },
  async cancel_a_running_statement(client) {
    const running = attempt(client.query('select pg_sleep(20.375)'))
    const other = await connect()
    const question = "select count(*)::int as n from pg_stat_activity where state = 'active' and query like 'select pg_sleep(20.375%'"
    while (!(await other.query(question)).rows[0].n);
    // pg's own cancel() speaks no TLS, and this server takes nothing else: send the CancelRequest as libpq does.
    await cancel(client)
    const outcome = await running
    await other.end()
    return [outcome, await attempt(client.query("select 'usable' as state"))]
  },
  async ten_megabytes(client) {
    const text = '0123456789abcdef'.repeat(655360)
    const row = (await client.query('select $1::text as t, md5($1::text) as m, $2::bytea as b', [text, Buffer.alloc(10485760, 7)])).rows[0]
    return [digest(row.t), row.m, digest(row.b)]
  },
  async error_in_a_transaction(client) {
    const found = []
    await client.query('begin')
    await client.query("insert into drvn_rows values (1000, 'kept')")
    await client.query('savepoint here')
    found.push(await attempt(client.query("insert into drvn_rows values (1000, 'twice')")))
    found.push(await attempt(client.query('select $1::text', ['in a failed transaction'])))
    await client.query('rollback to savepoint here')
    await client.query('insert into drvn_rows values ($1, $2)', [1001, 'after'])
    await client.query('commit')
    found.push((await client.query('select * from drvn_rows where id >= 1000 order by id')).rows)
    return found
  },
  async wrong_statements(client) {
    const found = []
    for (const text of ['selec 1', 'select * from no_such_table', "select 'x'::int", '']) found.push(await attempt(client.query(text)))
    return found
  },
  async notices(client) {
    const heard = []
    client.on('notice', (notice) => heard.push([notice.severity, notice.code, notice.message]))
    await client.query('drop table if exists never_there')
    await client.query("do $$ begin raise notice 'hello %', 42; raise warning 'careful'; end $$")
    return heard
  },
  async large_result(client) {
    const text = "select n, md5(n::text), case when n % 7 = 0 then null else 'row ' || n end as t from generate_series(1, 100000) n"
    const result = await client.query({ text, rowMode: 'array' })
    return [result.rows.length, digest(Buffer.from(JSON.stringify(result.rows)))]
  },
  async tidy(client) {
    return (await client.query('drop table drvn_rows, drvn_copy')).command
  },
}

// Only when asked for by name: there is nothing to compare it with.
async function cancel_a_held_statement(client) {
  const told = new Promise((resolve) => client.once('notice', resolve))
  const held = attempt(client.query('delete from held_rows where id = 1'))
  await told
  await cancel(client)
  return [(await held)[0], (await client.query('select count(*)::int as n from held_rows where id = 1')).rows[0].n]
}

function cancel(client) {
  const net = require('node:net')
  const tls = require('node:tls')
  const words = (...numbers) => {
    const buffer = Buffer.alloc(numbers.length * 4)
    numbers.forEach((number, at) => buffer.writeInt32BE(number, at * 4))
    return buffer
  }
  return new Promise((resolve, reject) => {
    const plain = net.connect(client.port, client.host)
    plain.on('error', reject)
    plain.once('connect', () => plain.write(words(8, 80877103)))
    plain.once('data', () => {
      const secure = tls.connect({ socket: plain, servername: client.host, ca: settings().ssl.ca })
      secure.on('error', reject)
      secure.on('close', resolve)
      secure.on('data', () => {})
      secure.once('secureConnect', () => secure.end(words(16, 80877102, client.processID, client.secretKey)))
    })
  })
}

async function main() {
  const wanted = process.argv.slice(3)
  const client = await connect()
  const known = wanted.length ? { ...steps, cancel_a_held_statement } : steps
  for (const [name, step] of Object.entries(known)) {
    if (wanted.length && !wanted.includes(name)) continue
    let result
    try {
      result = await step(client)
    } catch (error) {
      result = String(error)
    }
    console.log(JSON.stringify([name, result]))
  }
  await client.end()
}

main().catch((error) => {
  console.error(error)
  process.exit(1)
})
