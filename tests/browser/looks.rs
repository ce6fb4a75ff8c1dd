//! How a page looks, measured in the browser: whether it fits its window, and whether its words and marks can be read.
//!
//! Contrast as WCAG 2.2 reckons it (relative luminance of sRGB); words ask for 4.5:1 (1.4.3), marks for 3:1 (1.4.11).

use serde_json::Value;

use super::Browser;

const OF_WORDS: f64 = 4.5;
const OF_MARKS: f64 = 3.0;

/// What reaches out of the window, or is cut off in its box.
const TOO_WIDE: &str = "(() => {
  const root = document.documentElement, width = root.clientWidth;
  const wide = [...document.querySelectorAll('body, body *')].filter(e => {
    if (e.ownerSVGElement || !e.getClientRects().length) return false;
    const r = e.getBoundingClientRect();
    const cut = getComputedStyle(e).overflowX === 'hidden' && e.scrollWidth > e.clientWidth + 1;
    return r.right > width + 0.5 || r.left < -0.5 || cut;
  }).map(e => `<${e.tagName} class=${e.className}> ${(e.textContent || '').slice(0, 60)}`);
  return root.scrollWidth > width ? [`the page is ${root.scrollWidth} px wide`, ...wide] : wide;
})()";

/// Each word that is seen, and each mark of a chart, with its contrast to what is behind it.
const CONTRASTS: &str = "(() => {
  const parse = text => { const n = text.match(/[\\d.]+/g).map(Number); return n.length < 4 ? [...n, 1] : n; };
  const over = (top, under) => [0, 1, 2].map(i => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
  const behind = element => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour[3] > 0) layers.push(colour);
      if (colour[3] === 1) break;
    }
    return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
  };
  const light = colour => {
    const [r, g, b] = colour.slice(0, 3).map(v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ratio = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
  const words = [], marks = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, e = node.parentElement;
    if (!node.data.trim() || e.ownerSVGElement || !e.getClientRects().length) continue;
    const ground = behind(e);
    words.push([node.data.trim().slice(0, 60), ratio(over(parse(getComputedStyle(e).color), ground), ground)]);
  }
  for (const e of document.querySelectorAll('svg rect, svg path, svg circle')) {
    const fill = getComputedStyle(e).fill;
    if (fill === 'none') continue;
    const ground = behind(e.ownerSVGElement);
    marks.push([e.outerHTML.slice(0, 60), ratio(over(parse(fill), ground), ground)]);
  }
  return { words, marks };
})()";

impl Browser {
    /// What does not fit into the window.
    pub fn too_wide(&mut self) -> Vec<String> {
        serde_json::from_value(self.ask(TOO_WIDE)).unwrap()
    }

    /// Words and marks that can hardly be told from what is behind them, and how many were looked at.
    pub fn faint(&mut self) -> (Vec<String>, usize) {
        let found = self.ask(CONTRASTS);
        let of = |kind: &str, least: f64| -> (Vec<String>, usize) {
            let all: Vec<(String, f64)> = serde_json::from_value(found[kind].clone()).unwrap();
            let faint = all.iter().filter(|(_, ratio)| *ratio < least);
            (faint.map(|(text, ratio)| format!("{ratio:.2}:1 {text}")).collect(), all.len())
        };
        let ((mut faint, words), (marks, number)) = (of("words", OF_WORDS), of("marks", OF_MARKS));
        faint.extend(marks);
        (faint, words + number)
    }

    /// Fits a phone, a half window and a whole one, in light and in dark, and can be read there. Pictures of what does
    /// not are kept and named.
    pub fn looks_well(&mut self, name: &str) {
        let mut wrong: Vec<String> = Vec::new();
        let mut grounds: Vec<Value> = Vec::new();
        for scheme in ["light", "dark"] {
            self.scheme(scheme);
            grounds.push(self.ask("getComputedStyle(document.body).backgroundColor"));
            for width in [360, 500, 1100] {
                self.resize(width, 900);
                let (faint, looked_at) = self.faint();
                let found = [self.too_wide(), faint].concat();
                if !found.is_empty() || looked_at == 0 {
                    let picture = self.keep(&format!("{name}-{scheme}-{width}"));
                    wrong.push(format!("{scheme}, {width} px ({}): {found:#?}", picture.display()));
                }
            }
        }
        assert_ne!(grounds[0], grounds[1], "light and dark are the same");
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
