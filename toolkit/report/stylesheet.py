"""The style sheet of the page; colours are the variables that `style` defines."""

CSS = """\
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0 auto; max-width: 1260px; padding: 0 1.25rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  display: grid; grid-template-columns: 12rem minmax(0, 1fr); column-gap: 2.75rem;
}
header {
  grid-column: 1 / -1; margin-bottom: 1.5rem; padding: 2.5rem 0 1.25rem; border-bottom: 1px solid var(--grid);
}
h1 { font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.015em; margin: 0; text-wrap: balance; }
.about { color: var(--muted); max-width: 46rem; margin: 0.6rem 0 0; }
h2 { font-size: 1.3rem; line-height: 1.3; letter-spacing: -0.01em; margin: 0 0 0.6rem; }
section {
  margin: 0 0 1.75rem; padding: 0 0 1.25rem; border-bottom: 1px solid var(--grid); scroll-margin-top: 1rem;
}
section:last-child { border-bottom: 0; }
section > p { max-width: 46rem; margin: 0 0 1rem; }
section > p.note { color: var(--muted); font-size: 0.92rem; margin: 0 0 0.6rem; }
a { color: var(--series-0); }
code { font: 0.88em ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
.skip { position: absolute; left: -100vw; }
.skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: 0.5rem; z-index: 1; }

nav ol { list-style: none; margin: 0; padding: 0; position: sticky; top: 1.5rem; font-size: 0.92rem; }
nav li { margin: 0; }
nav a { display: block; padding: 0.28rem 0; color: var(--muted); text-decoration: none; }
nav a:hover, nav a:focus { color: var(--ink); text-decoration: underline; }

.scroll { overflow-x: auto; }
.scroll:focus-visible { outline: 2px solid var(--series-0); outline-offset: 2px; }
table {
  border-collapse: collapse; margin: 0 0 1rem; min-width: 60%;
  font-size: 0.88rem; font-variant-numeric: tabular-nums;
}
caption { text-align: left; color: var(--muted); font-size: 0.88rem; padding: 0 0 0.35rem; }
th, td {
  text-align: left; vertical-align: baseline;
  padding: 0.26rem 1.2rem 0.26rem 0; border-bottom: 1px solid var(--grid);
}
thead th {
  color: var(--muted); font-weight: 500; font-size: 0.86rem; white-space: nowrap;
  border-bottom-color: var(--muted);
}
tbody th { font-weight: 500; }
.summary { width: 100%; }
.summary tbody th { min-width: 8.5rem; }
td.metric { min-width: 7.5rem; }
td { white-space: nowrap; }
td.metric, td.interval { white-space: normal; }
.summary td, .summary th { padding-right: 0.8rem; }
td.interval { min-width: 7.9rem; }
.number { text-align: right; }
tr.group th { padding-top: 1.1rem; color: var(--muted); font-weight: 600; font-size: 0.86rem; }
td.value { font-weight: 650; }
.tag {
  display: inline-block; padding: 0 0.5em; border: 1px solid currentColor; border-radius: 1em;
  color: var(--muted); font-size: 0.84em;
}
.tag-real { color: var(--series-2); }
.tag-tts { color: var(--series-1); }
.tag-sim { color: var(--series-3); }

.panels {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 400px), 1fr));
  gap: 1.25rem 2rem; align-items: start;
}
.tall-first > :first-child { grid-row: span 2; }
figure { margin: 0 0 1.25rem; }
figure svg { display: block; width: 100%; height: auto; overflow: visible; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
.wide svg { min-width: 720px; }
figcaption {
  color: var(--muted); font-size: 0.88rem; line-height: 1.45; padding-top: 0.45rem; max-width: 46rem;
}
audio { display: block; width: 100%; max-width: 26rem; height: 2.4rem; margin: 0.5rem 0 0; }
details { margin: 0 0 1rem; }
ol.examples { list-style: none; margin: 0 0 1rem; padding: 0; }
.examples li { padding: 0.6rem 0; border-top: 1px solid var(--grid); }
.examples .name { margin: 0 0 0.2rem; color: var(--muted); font-size: 0.86rem; overflow-wrap: anywhere; }
.examples dl {
  display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 0.1rem 1.2rem; margin: 0;
}
dt { color: var(--muted); font-size: 0.88rem; padding-top: 0.08rem; }
dd { margin: 0; }
mark, ins, del { border-radius: 0.2em; padding: 0 0.15em; color: inherit; }
mark { background: color-mix(in srgb, var(--confusion) 20%, transparent); }
ins { background: color-mix(in srgb, var(--false-alarm) 28%, transparent); }
del { background: color-mix(in srgb, var(--miss) 28%, transparent); }
summary { cursor: pointer; color: var(--muted); font-size: 0.92rem; padding: 0.2rem 0; }
details[open] > summary { margin-bottom: 0.5rem; }
.not-run { color: var(--muted); border-left: 3px solid var(--series-4); padding: 0.2rem 0 0.2rem 0.8rem; }

@media (max-width: 900px) {
  .examples dl { display: block; }
  dd { margin: 0 0 0.3rem; }
  body { display: block; padding: 0 1rem 3rem; }
  header { padding-top: 1.5rem; margin-bottom: 1rem; }
  h1 { font-size: 1.5rem; }
  nav { border-bottom: 1px solid var(--grid); margin-bottom: 1.5rem; padding-bottom: 1rem; }
  nav ol { position: static; display: flex; flex-wrap: wrap; gap: 0 1.1rem; }
  nav a { color: var(--series-0); }
  th, td { padding-right: 0.8rem; }
  .summary tbody th { min-width: 5.5rem; }
  .tall-first > :first-child { grid-row: auto; }
}
@media print {
  body { display: block; max-width: none; font-size: 10.5pt; }
  nav, .skip, audio { display: none; }
  figure, tr { break-inside: avoid; }
  h2 { break-after: avoid; }
  .scroll { overflow: visible; }
  .wide svg { min-width: 0; }
}
"""
