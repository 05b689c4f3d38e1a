"""The style sheet of the page, beyond what all pages share."""

STYLE = """
.span { stroke: var(--kind); stroke-width: 4px; stroke-opacity: .5; stroke-linecap: round; }
.reach { stroke: var(--soft); }
.one { stroke: var(--soft); stroke-dasharray: 3 3; }
.named, .anonymous { --kind: var(--blue); }
.routed, .file { --kind: var(--green); }
.dense { --kind: var(--grey); }
.all-experts { --kind: var(--orange); }
.separate-models { --kind: var(--purple); }
.reload { --kind: var(--red); }
"""
