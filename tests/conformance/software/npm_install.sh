# npm installs a package from a local folder and from a tarball that npm packed; its script runs.
# seconds: 300
export npm_config_cache=$PWD/cache npm_config_update_notifier=false npm_config_audit=false npm_config_fund=false
mkdir -p library application
cat >library/package.json <<'SCRIPT'
{"name": "library", "version": "1.2.3", "main": "index.js", "bin": {"library-says": "cli.js"}}
SCRIPT
echo 'module.exports = (a, b) => a + b;' >library/index.js
printf '#!/usr/bin/env node\nconsole.log("says", require("./index.js")(20, 22));\n' >library/cli.js
(cd library && npm pack --silent)
cd application
cat >package.json <<'SCRIPT'
{"name": "application", "version": "1.0.0", "scripts": {"start": "library-says", "postinstall": "node -e \"require('fs').writeFileSync('installed', 'yes')\""}}
SCRIPT
npm install --offline --no-install-links ../library
test -L node_modules/library
npm install --offline --no-install-links
test "$(cat installed)" = yes
npm start --silent | grep -qx 'says 42'
npm uninstall --offline library
npm install --offline ../library/library-1.2.3.tgz
test ! -L node_modules/library
test "$(node -p 'require("library")(1, 2)')" = 3
npm ls --offline
