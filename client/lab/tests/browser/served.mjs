// Puts files of a directory into the place of those that a program was built with: a page is changed, looked at and
// measured without a build.

import { existsSync } from 'node:fs';
import { join } from 'node:path';

const TYPES = { js: 'text/javascript', css: 'text/css' };

/** Serves the scripts and styles of a page, or of a browser's pages, from a directory. */
export function servedFrom(pages, directory) {
  return pages.route(/\/[a-z]+\.(js|css)$/, route => {
    const path = join(directory, new URL(route.request().url()).pathname);
    return existsSync(path) ? route.fulfill({ path, contentType: TYPES[path.split('.').pop()] }) : route.continue();
  });
}
