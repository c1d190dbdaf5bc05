"""Pictures and one self-contained HTML page about an experiment.

`description` says what a page shows (a small YAML or JSON file), `discover` makes one up from a folder;
`sections` and `recognition` read the files; `curves`, `det`, `timeline`, `alignment` and `bars` draw; `table`
is the summary, `page` the HTML, and `build` puts all together.
"""
