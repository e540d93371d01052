// Who calls or writes, as the network says: what stands in From is the other side's own word.

const ADDRESS = /\b(sips?|tel):([^\s<>;,?"]+)/gi;
const QUOTED = /"(?:\\.|[^"\\])*"/g;

// The address that the network vouches for (RFC 3325), or null. A tel URI is what a user knows best.
export function asserted(request) {
  const found = [];
  for (const value of request.getHeaders('P-Asserted-Identity')) {
    for (const [, scheme, rest] of value.replace(QUOTED, '').matchAll(ADDRESS)) found.push([scheme.toLowerCase(), rest]);
  }
  const [scheme, rest] = found.find(([kind]) => kind === 'tel') ?? found[0] ?? [];
  if (!rest) return null;
  const user = rest.includes('@') ? rest.slice(0, rest.lastIndexOf('@')) : rest;
  // A number is shown without its domain, a name with it: it is only the domain's own.
  return scheme === 'tel' || /^\+?[0-9*#().-]+$/.test(user) ? user : rest;
}

// Returns { who, address }: what to show, and whom to answer ('' if nobody knows).
export function caller(request) {
  const from = request.from ?? {};
  // Beside it at most, and never what could be read as another number.
  const name = (from.display_name ?? '').replace(/[\p{C}\p{Z}]+/gu, ' ').trim().slice(0, 40);
  const address = asserted(request);
  const harmless = /\p{L}/u.test(name) && !/\d{3}/.test(name.replace(/[^\p{L}\p{N}]/gu, '')) && name !== address;
  const nobody = /(^|\.)anonymous\.invalid$/i.test(from.uri?.host ?? '') && /^(anonymous)?$/i.test(name);
  // RFC 3323: also where an identity has slipped through.
  if (nobody || /\b(id|user|header)\b/i.test(request.getHeader('Privacy') ?? '')) return { who: 'Anonymous', address: '' };
  if (!address) return { who: harmless ? `Unknown “${name}”` : 'Unknown', address: '' };
  return { who: harmless ? `${address} “${name}”` : address, address };
}
