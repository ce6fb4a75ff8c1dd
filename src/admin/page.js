
'use strict';
// Text is written as text, never as markup: what comes from keys and errors is anybody's.
const at = id => document.getElementById(id);
const make = (tag, name, ...inside) => {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...inside.filter(part => part !== null));
  return element;
};
const EVERY = 2000, LATE = 8000;
const span = seconds => {
  if (seconds === null || seconds === undefined) return 'not known';
  const whole = Math.round(seconds);
  if (seconds < 10) return `${Math.round(seconds * 10) / 10} s`;
  if (whole < 120) return `${whole} s`;
  if (whole < 7200) return `${Math.round(whole / 60)} min`;
  if (whole < 172800) return `${Math.round(whole / 3600)} h`;
  return `${Math.round(whole / 86400)} days`;
};
// A part is drawn again only when it has changed: what somebody is selecting stays selected.
const drawn = {};
const draw = (id, parts) => {
  const fresh = make('div', '', ...parts), text = fresh.innerHTML;
  if (drawn[id] === text) return;
  drawn[id] = text;
  at(id).replaceChildren(...fresh.childNodes);
};
const pairs = (id, rows) => draw(id, rows.flatMap(([name, value]) => [make('dt', '', name), make('dd', '', String(value))]));
const command = text => {
  if (!text) return null;
  const button = make('button', 'small', 'copy');
  button.type = 'button';
  button.dataset.copy = text;
  return make('div', 'command', make('code', '', text), button);
};
document.addEventListener('click', async event => {
  const text = event.target.dataset && event.target.dataset.copy;
  if (!text) return;
  try {
    await navigator.clipboard.writeText(text);
    event.target.textContent = 'copied';
  } catch {
    getSelection().selectAllChildren(event.target.previousSibling);
    event.target.textContent = 'selected';
  }
});
const SVG = 'http://www.w3.org/2000/svg', WIDTH = 300, HEIGHT = 80, MINUTES = 15;
const chart = (id, now, points, lines, unit) => {
  const most = Math.max(...lines.flatMap(([, of]) => points.map(of)).filter(value => value !== null), 0);
  const paths = lines.map(([name, of]) => {
    let d = '', pen = false;
    for (const point of points) {
      const value = of(point);
      if (value === null) { pen = false; continue; }
      const x = WIDTH * (1 - (now - point.at_ms) / (MINUTES * 60000));
      const y = HEIGHT - 3 - (HEIGHT - 8) * (most ? value / most : 0);
      d += `${pen ? 'L' : 'M'}${x.toFixed(1)} ${y.toFixed(1)}${pen ? '' : 'h.1'}`;
      pen = true;
    }
    const path = document.createElementNS(SVG, 'path');
    path.setAttribute('class', name);
    path.setAttribute('d', d);
    return path;
  });
  at(id).replaceChildren(...paths);
  at(`${id}-most`).textContent = points.length ? `(at most ${unit(most)})` : '(nothing yet)';
};
const lot = seen => seen === null ? 'not known' : `${seen.at_least ? 'at least ' : ''}${seen.documents}`;
const aged = seen => seen === null ? 'not known'
  : lot(seen) + (seen.oldest_age_seconds === null ? '' : `, the oldest ${span(seen.oldest_age_seconds)}`);

const show = s => {
  const state = s.draining ? ['care', 'Stopping: finishing what it holds'] : !s.ready ? ['bad', 'Not ready']
    : s.paused ? ['care', 'Paused'] : s.intake === 'held' ? ['care', 'Intake is held']
    : s.books.balanced ? ['good', 'Receiving'] : ['bad', 'The books do not balance'];
  at('state').className = `state ${state[0]}`;
  at('state').textContent = state[1];
  at('why').textContent = [...s.reasons, ...s.notes.filter(note => note !== 'opensearch: well')].join('\n');
  const b = s.books, d = s.dead_letters;
  document.title = `${state[1]} · ${s.namespace} · quittance worker`;
  const tile = (name, value, bad) => make('div', bad ? 'tile bad' : 'tile', make('b', '', String(value)), name);
  draw('tiles', [
    tile('in flight', b.in_flight), tile('received', b.received), tile('deleted', b.deleted),
    tile('returned', b.returned), tile('dead-lettered', b.dead_lettered, b.dead_lettered > 0),
    tile('leases lost', b.lease_lost, b.lease_lost > 0), tile('parked', lot(s.parked)),
    tile('errored', lot(s.errored), s.errored !== null && s.errored.documents > 0),
    tile('in the DLQ', d === null ? 'not known' : d.visible, d !== null && d.visible > 0),
  ]);
  const now = Date.parse(s.now), minute = of => step => step.ms ? of(step) * 60000 / step.ms : null;
  chart('rate', now, s.history, [['s1', minute(step => step.deleted)], ['s2', minute(step => step.returned)],
    ['s3', minute(step => step.dead_lettered + step.lease_lost)]], most => `${Math.round(most)} a minute`);
  chart('work', now, s.history, [['s1', step => step.work_p50_seconds], ['s2', step => step.work_p95_seconds]], span);
  const hands = s.in_flight.shown.map(held => make('div', '',
    make('b', '', `${span(held.age_seconds)}, ${held.phase}`), `, receive ${held.receive_count}`,
    ...held.keys.map(key => make('div', 'sub', key)),
    held.more_keys ? make('div', 'sub', `and ${held.more_keys} more`) : null, command(held.trace)));
  const beyond = b.in_flight - s.in_flight.shown.length;
  if (!s.in_flight.answered) hands.unshift(make('p', '', 'The settler does not answer.'));
  if (s.in_flight.shown.length && beyond > 0) hands.push(make('p', '', `and ${beyond} younger ones`));
  draw('hands', hands.length ? hands : [make('p', '', 'Nothing.')]);
  const failures = s.failures.map(({ reason, number, last }) => make('div', '',
    make('b', '', `${reason}: ${number}`), ...last.map(one => make('div', 'sub', `${one.at}, ${one.end}`,
      one.key ? make('div', '', one.key) : null, one.detail ? make('div', '', one.detail) : null, command(one.trace)))));
  draw('failures', failures.length ? failures : [make('p', '', 'None since it was started.')]);
  pairs('elsewhere', [
    ['Parked', aged(s.parked)], ['Errored', aged(s.errored)],
    ['Dead-letter queue', d === null ? 'not known'
      : `${d.visible}, and ${d.hidden} in somebody's hands; SQS deletes a letter after ${span(d.retention_seconds)}`],
    ['The first of this run expires', d === null || !d.own_first_expires_at ? 'none was sent' : d.own_first_expires_at],
  ]);
  const open = is => is === null ? 'not used' : is ? 'open' : 'closed';
  pairs('depend', [
    ['Critical breaker', `${open(s.breakers.critical)} (S3, parking)`],
    ['Index breaker', `${open(s.breakers.index)} (OpenSearch)`],
    ['Paused by', s.paused_by.map(hold => `${hold.by} (${hold.hand}): ${hold.reason}`).join('; ') || 'nobody'],
    ['Last progress', b.in_flight ? `${span(s.progress_age_seconds)} ago` : 'nothing is in flight'],
    ['Work time', s.latency.messages ? `half below ${span(s.latency.work_p50_seconds)}, 95 % below `
      + `${span(s.latency.work_p95_seconds)}, 99 % below ${span(s.latency.work_p99_seconds)}` : 'nothing yet'],
  ]);
  pairs('books', [
    ['Messages', `${b.received} received = ${b.deleted} deleted + ${b.dead_lettered} dead-lettered + ${b.returned} returned`
      + ` + ${b.lease_lost} lost + ${b.in_flight} in flight`],
    ['Deleted', `${b.done} done + ${b.superseded} superseded + ${b.skipped} skipped`],
    ['Changes', `${b.changes_parsed} parsed = ${b.changes_done} done + ${b.changes_superseded} superseded + `
      + `${b.changes_skipped} skipped + ${b.changes_retried} retried + ${b.changes_rejected} rejected + `
      + `${b.changes_abandoned} abandoned`],
    ['Documents', `${b.documents_offered} offered = ${b.documents_indexed} indexed + ${b.documents_parked} parked + `
      + `${b.documents_failed} failed; ${b.replayed} replayed`],
    ['Balanced', b.balanced ? 'yes' : 'NO: a defect; please report it with the line out_of_balance'],
  ]);
  at('control').hidden = !s.may_pause;
  at('foot').textContent = `version ${s.version} · namespace ${s.namespace} · run ${s.run_id} · up ${span(s.uptime_seconds)}`
    + ` · ${s.now}`;
};
const ask = async () => {
  try {
    const answer = await fetch('status', { cache: 'no-store', signal: AbortSignal.timeout(LATE) });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    show(await answer.json());
  } catch (error) {
    at('state').className = 'state bad';
    at('state').textContent = 'No answer from the worker';
    at('why').textContent = `What is below is old. ${error.message}`;
  }
};
const act = async what => {
  at('told').textContent = '…';
  try {
    const headers = { Authorization: `Bearer ${at('token').value}` };
    const body = what === 'pause' ? at('reason').value : undefined;
    const answer = await fetch(what, { method: 'POST', headers, body, signal: AbortSignal.timeout(LATE) });
    at('told').textContent = (await answer.text()).trim();
  } catch (error) {
    at('told').textContent = `not done: ${error.message}`;
  }
  await ask();
};
at('pause').addEventListener('click', () => act('pause'));
at('resume').addEventListener('click', () => act('resume'));
const go_on = async () => {
  if (!document.hidden) await ask();
  setTimeout(go_on, EVERY);
};
document.addEventListener('visibilitychange', () => document.hidden || ask());
go_on();
