// Prints the dashboards given as arguments as TypeScript literals: excess properties are checked there.
import { readFileSync } from "node:fs";

const options = { stat: "stat", timeseries: "timeseries", table: "table" };
const literal = (value) => JSON.stringify(value, null, 1);
console.log('import type { Dashboard, RowPanel, VariableModel } from "@grafana/schema";');
console.log('import type * as cloudwatch from "./node_modules/@grafana/schema/dist/esm/raw/composable/cloudwatch/dataquery/x/CloudWatchDataQuery_types.gen";');
for (const [name, module] of Object.entries(options)) {
  const file = { stat: "StatPanelCfg", timeseries: "TimeSeriesPanelCfg", table: "TablePanelCfg" }[name];
  console.log(`import type * as ${name} from "./node_modules/@grafana/schema/dist/esm/raw/composable/${module}/panelcfg/x/${file}_types.gen";`);
}
// JSON has the values of string enums, not their names.
console.log("type Loose<T> = T extends string ? `${T}` : T extends number | boolean | null | undefined ? T");
console.log("  : T extends Array<infer U> ? Loose<U>[] : T extends object ? { [K in keyof T]: Loose<T[K]> } : T;");
let n = 0;
for (const path of process.argv.slice(2)) {
  const board = JSON.parse(readFileSync(path, "utf8"));
  console.log(`// ${path}`);
  console.log(`export const d${n++}: Loose<Dashboard> = ${literal(board)};`);
  for (const panel of board.panels.filter((p) => p.type !== "row")) {
    if (!options[panel.type]) throw new Error(`${path}: no schema is chosen for panels of type ${panel.type}`);
    console.log(`export const o${n++}: Loose<Partial<${panel.type}.Options>> = ${literal(panel.options)};`);
    for (const target of panel.targets.filter((t) => t.datasource.type === "cloudwatch")) {
      const kind = target.queryMode === "Logs" ? "CloudWatchLogsQuery" : "CloudWatchMetricsQuery";
      console.log(`export const q${n++}: Loose<cloudwatch.${kind}> = ${literal(target)};`);
    }
  }
}
