// One answer, or what was wrong with an image, as an element of the page.

const PERCENT = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1, maximumFractionDigits: 1 });

// picture: address of a thumbnail, or null.
export function answerCard(title, picture, { labels, tasks, probabilities, route, milliseconds }) {
  const several = new Set(tasks).size > 1;
  const list = element(
    "ul",
    {},
    labels.map((label, i) =>
      element("li", {}, [
        element("span", {}, several || i === 0 ? `${label} (${tasks[i]})` : label),
        element("span", {}, PERCENT.format(probabilities[i])),
        element("meter", { value: probabilities[i], ariaHidden: "true" }),
      ]),
    ),
  );
  const total = Object.values(milliseconds).reduce((sum, part) => sum + part, 0);
  const parts = Object.entries(milliseconds)
    .map(([name, part]) => `${name} ${part.toFixed(1)}`)
    .join(", ");
  const experts = route.tasks.map((task, i) => `${task} ${PERCENT.format(route.weights[i])}`).join(", ");
  return card(title, picture, [
    list,
    element("p", {}, `Expert: ${experts || "none, the plain backbone"}`),
    element("p", { className: "quiet" }, `${total.toFixed(1)} ms: ${parts}`),
  ]);
}

export function errorCard(title, message) {
  return card(title, null, [element("p", { className: "bad" }, `Cannot be read as an image: ${message}`)]);
}

export function element(name, properties = {}, content = []) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...[content].flat());
  return made;
}

function card(title, picture, content) {
  const body = element("div", {}, [element("h3", {}, title), ...content]);
  return element(
    "article",
    { className: picture ? "card" : "card plain" },
    picture ? [element("img", { src: picture, alt: "" }), body] : [body],
  );
}
