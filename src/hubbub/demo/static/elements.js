// Pieces of the page. Whatever people write reaches the document here, through `textContent` alone.

export function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

/** Somebody's name, after a round sign with its initial, always in the same colour. */
export function signature(person, className) {
  const sign = element("span", "avatar", [...person][0].toUpperCase());
  let hue = 0;
  for (const character of person) hue = (hue * 31 + character.codePointAt(0)) % 360;
  sign.style.setProperty("--hue", hue);
  sign.ariaHidden = "true";
  const name = element("b", className, person);
  name.dir = "auto";
  return [sign, name];
}

/** Make a list anew, but only if it has changed: what is not touched keeps the keyboard's focus. */
export function fill(list, keys, make) {
  const before = list.keys ?? [];
  if (before.length === keys.length && before.every((key, index) => key === keys[index])) return;
  list.keys = keys;
  list.replaceChildren(...keys.map(make));
}
