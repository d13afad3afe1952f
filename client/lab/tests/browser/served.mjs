// Puts files of a directory into the place of those that a program was built with: a page is changed, looked at and
// measured without a build.

import { existsSync } from 'node:fs';
import { join } from 'node:path';

/** What all pages have. */
const SHARED = join(import.meta.dirname, '../../../../proto/pages/web');
const TYPES = { js: 'text/javascript', css: 'text/css' };

/** Serves the scripts and styles of a page, or of a browser's pages, from a directory. */
export function servedFrom(pages, directory) {
  return pages.route(/\/[a-z]+\.(js|css)$/, route => {
    const { pathname } = new URL(route.request().url());
    const path = [directory, SHARED].map(each => join(each, pathname)).find(existsSync);
    return path ? route.fulfill({ path, contentType: TYPES[path.split('.').pop()] }) : route.continue();
  });
}
