#!/usr/bin/env bash
# A terminal's text as a picture: plancton status | packaging/picture.sh >packaging/status.svg
set -euo pipefail

sed 's/ /\xc2\xa0/g; s/&/\&amp;/g; s/</\&lt;/g; s/>/\&gt;/g' | awk '
  { line[NR] = $0; if (length($0) > width) width = length($0) }
  END {
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"plancton status\">\n", 680, NR * 18 + 32
    print "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#16202a\"/>"
    print "<g font-family=\"DejaVu Sans Mono, Menlo, Consolas, monospace\" font-size=\"13\" fill=\"#d6dee6\">"
    for (i = 1; i <= NR; i++) {
      gsub(/(█)+/, "<tspan fill=\"#f2b04c\">&</tspan>", line[i]); gsub(/(▒)+/, "<tspan fill=\"#4cc2a0\">&</tspan>", line[i])
      if (line[i] != "") printf "<text x=\"16\" y=\"%d\"%s>%s</text>\n", i * 18 + 14, i == 1 ? " font-weight=\"bold\"" : "", line[i]
    }
    print "</g>\n</svg>"
  }'
