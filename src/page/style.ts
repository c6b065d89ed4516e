/** The style sheet, /page.css. */
export const styleSheet = `
:root {
  color-scheme: light dark;
  --page: #f7f7f5; --surface: #ffffff; --text: #1b1f24; --muted: #59626d; --line: #e1e3e6; --strong-line: #c3c8ce;
  --accent: #1c5bb8; --accent-soft: #e9f0fb; --on-accent: #ffffff;
  --good: #17703d; --good-soft: #e7f4ec; --warn: #825300; --warn-soft: #fcf2dc; --bad: #b3261e; --bad-soft: #fcebe9;
  --ipv4: #2f6fd0; --ipv6: #b35c00;
  --mono: ui-monospace, "SFMono-Regular", "Cascadia Mono", "Liberation Mono", "DejaVu Sans Mono", Menlo, monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #111417; --surface: #181c20; --text: #e5e8eb; --muted: #9ba6b2; --line: #2a3037; --strong-line: #46505b;
    --accent: #82b4ff; --accent-soft: #1b2a40; --on-accent: #0c1420;
    --good: #63cd91; --good-soft: #14291d; --warn: #e3b45c; --warn-soft: #2e2513; --bad: #ff9188; --bad-soft: #371b19;
    --ipv4: #74a9f7; --ipv6: #e39a4a;
  }
}
* { box-sizing: border-box; }
html { background: var(--page); -webkit-text-size-adjust: 100%; }
body {
  margin: 0; color: var(--text); background: var(--page);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", "DejaVu Sans", sans-serif;
  font-variant-numeric: tabular-nums;
}
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
p a, .note a { text-decoration: underline; text-underline-offset: 2px; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; border-radius: 3px; }
code, .mono { font-family: var(--mono); font-size: 0.9em; font-variant-ligatures: none; }
.muted { color: var(--muted); }
.skip { position: absolute; left: -999px; top: 8px; z-index: 2; padding: 8px 14px; color: var(--on-accent); background: var(--accent); border-radius: 6px; }
.skip:focus { left: 16px; }

.top { background: var(--surface); border-bottom: 1px solid var(--line); }
.top > div, main, footer { max-width: 1240px; margin: 0 auto; padding: 0 24px; }
.top > div { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 28px; min-height: 60px; padding-block: 8px; }
.brand { display: flex; flex-direction: column; line-height: 1.25; }
.brand strong { font-weight: 650; letter-spacing: -0.01em; }
.brand span { font-size: 13px; color: var(--muted); overflow-wrap: anywhere; }
nav.main { display: flex; gap: 4px; }
nav.main a { padding: 6px 12px; border-radius: 6px; color: var(--muted); font-weight: 500; }
nav.main a:hover { color: var(--text); background: var(--page); text-decoration: none; }
nav.main a[aria-current] { color: var(--accent); background: var(--accent-soft); }
.search { display: flex; gap: 8px; margin-left: auto; flex: 0 1 380px; }
.search input { flex: 1 1 auto; min-width: 0; }

input, select, button {
  font: inherit; color: inherit; height: 36px; padding: 0 11px; background: var(--surface);
  border: 1px solid var(--strong-line); border-radius: 6px;
}
input::placeholder { color: var(--muted); opacity: 1; }
input:focus-visible, select:focus-visible { outline-offset: 0; border-color: var(--accent); }
button { cursor: pointer; font-weight: 550; }
button:hover { background: var(--page); }
button.primary { color: var(--on-accent); background: var(--accent); border-color: var(--accent); }
button.primary:hover { filter: brightness(1.08); }

main { padding-block: 28px 40px; outline: none; }
h1 { margin: 0 0 4px; font-size: 25px; line-height: 1.25; font-weight: 650; letter-spacing: -0.015em; overflow-wrap: anywhere; }
h1 .muted { font-weight: 450; }
h2 { margin: 36px 0 12px; font-size: 17px; line-height: 1.35; font-weight: 620; letter-spacing: -0.005em; }
h3 { margin: 22px 0 8px; font-size: 14px; font-weight: 600; color: var(--muted); }
p { margin: 0 0 12px; }
.lead { margin-bottom: 20px; color: var(--muted); }
section > :last-child { margin-bottom: 0; }
.panel { background: var(--surface); border: 1px solid var(--line); border-radius: 10px; padding: 18px 20px; }
.panel + .panel, .scroll + .panel, .panel + .scroll { margin-top: 14px; }
.after { margin-top: 10px; }
.empty { color: var(--muted); margin: 0; }

.scroll { overflow-x: auto; background: var(--surface); border: 1px solid var(--line); border-radius: 10px; }
table { width: 100%; border-collapse: collapse; }
caption { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
th, td { padding: 8px 14px; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
tbody tr:last-child > * { border-bottom: 0; }
thead th { padding-block: 10px; font-size: 12.5px; font-weight: 550; color: var(--muted); white-space: nowrap; background: var(--surface); }
thead th a { color: inherit; }
thead th[aria-sort] a { color: var(--text); font-weight: 650; }
tbody th { font-weight: 500; }
tbody tr:hover > * { background: color-mix(in srgb, var(--page) 70%, var(--surface)); }
.number { text-align: right; white-space: nowrap; }
.tight { white-space: nowrap; }
td.name { min-width: 200px; overflow-wrap: anywhere; }
td div + div { margin-top: 1px; }
.zero { color: var(--muted); }

.tag {
  display: inline-block; padding: 1px 8px; border-radius: 999px; font-size: 12.5px; line-height: 1.5; font-weight: 550;
  color: var(--muted); background: color-mix(in srgb, var(--muted) 13%, transparent); white-space: nowrap;
}
.tag.good { color: var(--good); background: var(--good-soft); }
.tag.warn { color: var(--warn); background: var(--warn-soft); }
.tag.bad { color: var(--bad); background: var(--bad-soft); }
.note { padding: 12px 16px; border-radius: 8px; border: 1px solid var(--line); border-left-width: 4px; background: var(--surface); margin-bottom: 20px; overflow-wrap: anywhere; }
.note.good { border-left-color: var(--good); }
.note.warn { border-left-color: var(--warn); }
.note.bad { border-left-color: var(--bad); }
.note strong { font-weight: 620; }
.note p { margin: 4px 0 0; }
.good-text { color: var(--good); } .warn-text { color: var(--warn); } .bad-text { color: var(--bad); }

dl.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(190px, 1fr)); gap: 16px 24px; margin: 0; }
dl.facts dt { font-size: 12.5px; font-weight: 550; color: var(--muted); }
dl.facts dd { margin: 1px 0 0; overflow-wrap: anywhere; }

.plot { display: block; width: 100%; height: auto; font-size: 11.5px; }
.plot .grid { stroke: var(--line); }
.plot .baseline { stroke: var(--strong-line); }
.plot .tick { fill: var(--muted); }
.plot .axis { fill: var(--text); font-weight: 600; }
.plot .stem { stroke-opacity: 0.28; stroke-width: 1.5; }
.plot .bar { stroke-width: 2.5; stroke-linecap: round; }
.plot .IPv4 { stroke: var(--ipv4); } .plot .IPv6 { stroke: var(--ipv6); }
.plot .dot { stroke: none; } .plot .dot.IPv4 { fill: var(--ipv4); } .plot .dot.IPv6 { fill: var(--ipv6); }
.plot .failed { stroke: var(--bad); stroke-width: 2.2; fill: none; }
.plot-scroll { overflow-x: auto; }
.plot-scroll .plot { min-width: 640px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 0 0 10px; padding: 0; list-style: none; font-size: 13px; color: var(--muted); }
.legend svg { width: 10px; height: 10px; margin-right: 7px; }
.legend .IPv4 { fill: var(--ipv4); } .legend .IPv6 { fill: var(--ipv6); }
.legend .failed { stroke: var(--bad); stroke-width: 2; fill: none; }

details > summary { cursor: pointer; padding: 6px 0; color: var(--accent); width: fit-content; }
details[open] > summary { margin-bottom: 8px; }
.pager { display: flex; flex-wrap: wrap; align-items: center; gap: 4px; margin-top: 16px; padding: 0; list-style: none; }
.pager a, .pager span { display: block; min-width: 36px; padding: 6px 10px; text-align: center; border-radius: 6px; }
.pager a:hover { background: var(--accent-soft); text-decoration: none; }
.pager [aria-current] { color: var(--on-accent); background: var(--accent); font-weight: 600; }
.pager .gap { min-width: 0; padding-inline: 2px; color: var(--muted); }

form.explain { display: grid; grid-template-columns: minmax(0, 2fr) minmax(0, 1.4fr) 160px auto; gap: 14px 16px; align-items: start; }
form.explain label { display: block; margin-bottom: 4px; font-size: 13px; font-weight: 550; }
form.explain input, form.explain select { width: 100%; }
form.explain .hint { margin: 5px 0 0; font-size: 12.5px; color: var(--muted); }
form.explain button { margin-top: 24px; }
ol.steps { margin: 0; padding: 0; list-style: none; }
ol.steps > li { position: relative; padding: 0 0 14px 42px; }
ol.steps > li:last-child { padding-bottom: 0; }
ol.steps > li::before {
  content: counter(list-item); position: absolute; left: 0; top: 0; width: 26px; height: 24px; line-height: 24px; text-align: center;
  font-size: 12.5px; font-weight: 600; color: var(--muted); background: color-mix(in srgb, var(--muted) 13%, transparent); border-radius: 6px;
}
ol.steps .place { font-weight: 600; }
ul.hits { margin: 5px 0 0; padding: 0; list-style: none; }
ul.hits li { margin-top: 4px; padding: 5px 10px; border-left: 2px solid var(--strong-line); overflow-wrap: anywhere; }
ul.hits li.foreign { border-left-color: var(--warn); }
.word { display: inline-block; max-width: 100%; }
ul.plain { margin: 0; padding-left: 20px; }
ul.plain li { margin-bottom: 4px; overflow-wrap: anywhere; }
ul.plain li:last-child { margin-bottom: 0; }
footer { padding-block: 16px 36px; font-size: 13px; color: var(--muted); }

@media (max-width: 820px) {
  form.explain { grid-template-columns: minmax(0, 1fr); }
  form.explain button { margin-top: 0; }
  .search { flex-basis: 100%; margin-left: 0; }
  dl.facts { grid-template-columns: repeat(auto-fill, minmax(135px, 1fr)); }
  .top > div, main, footer { padding-inline: 16px; }
  th, td { padding-inline: 10px; }
}
@media print { .search, nav.main, .pager, form.explain { display: none; } }
`

/** The icon of the page, /page.svg: three servers behind one. */
export const icon = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="7" fill="#1c5bb8"/><path d="M16 10v5M16 15H8v4M16 15h8v4M16 15v4" stroke="#fff" stroke-width="2" fill="none"/><circle cx="16" cy="8" r="3" fill="#fff"/><circle cx="8" cy="22" r="3" fill="#fff"/><circle cx="16" cy="22" r="3" fill="#fff"/><circle cx="24" cy="22" r="3" fill="#fff"/></svg>`
