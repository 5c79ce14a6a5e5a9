// Storage may be forbidden or full; then the page works until it is reloaded.

/** One value of a Storage; storage() returns it, or throws. */
export function stored(storage, key) {
  let value = null;
  try {
    value = storage().getItem(key);
  } catch { /* kept in memory alone */ }
  return {
    get: () => value,
    /** The value as other tabs have set it. */
    reread() {
      try {
        value = storage().getItem(key);
      } catch { /* what is in memory stays */ }
      return value;
    },
    set(next) {
      value = next;
      try {
        if (next === null) storage().removeItem(key);
        else storage().setItem(key, next);
      } catch { /* kept in memory alone */ }
    },
  };
}

/** What the JSON says, or else the other. */
export function parsed(text, otherwise) {
  try {
    return JSON.parse(text) ?? otherwise;
  } catch {
    return otherwise;
  }
}
