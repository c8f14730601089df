// Draws a dashboard with Grafana's UI library: panels, legends, units and theme are Grafana's own
// code; layout, variables and queries are done here. See render.py.
import React from "react";
import { createRoot } from "react-dom/client";
import {
  createTheme, dateTime, FieldType, getDisplayProcessor, ThemeContext, toDataFrame, applyFieldOverrides,
} from "@grafana/data";
import { BigValue, PanelChrome, TimeSeries } from "@grafana/ui";
import "uplot/dist/uPlot.min.css";

const { board, data } = window.__input;
const [from, to] = window.__input.range.map((ms) => dateTime(ms));
const range = { from, to, raw: { from, to } };
const theme = createTheme({ colors: { mode: "dark" } });
const CELL = { w: 60, h: 36 };

function frames(panel) {
  return panel.targets.flatMap((target, n) => (data[panel.id]?.[n] ?? []).map((series) => {
    const name = (target.legendFormat || "value").replace(/{{(\w+)}}/g, (_, label) => series.metric[label] ?? "");
    return toDataFrame({
      refId: target.refId, name,
      fields: [
        { name: "Time", type: FieldType.time, values: series.values.map(([t]) => t * 1000) },
        { name: "Value", type: FieldType.number, values: series.values.map(([, v]) => Number(v)),
          config: { displayName: name } },
      ],
    });
  }));
}

function Panel({ panel }) {
  const { w, h } = panel.gridPos, width = w * CELL.w - 8, height = h * CELL.h - 8;
  const fieldConfig = panel.fieldConfig;
  const found = applyFieldOverrides({
    data: frames(panel), fieldConfig, theme, replaceVariables: (text) => text,
    fieldConfigRegistry: { getIfExists: () => undefined, list: () => [], selectOptions: () => ({}) },
    timeZone: "utc",
  });
  found.forEach((frame) => frame.fields.forEach((field) => {
    field.config = { ...field.config, unit: fieldConfig.defaults.unit, min: 0, color: fieldConfig.defaults.color,
      thresholds: fieldConfig.defaults.thresholds, custom: fieldConfig.defaults.custom };
    field.display = getDisplayProcessor({ field, theme, timeZone: "utc" });
  }));
  return (
    <PanelChrome title={panel.title} description={panel.description} width={width} height={height}>
      {(inner, tall) => {
        if (panel.datasource.type === "cloudwatch") {
          return <div style={{ color: "#999", padding: 8 }}>CloudWatch: not executed</div>;
        }
        if (!found.length) return <div style={{ color: "#999", padding: 8 }}>No data</div>;
        if (panel.type === "stat") {
          const each = inner / found.length;
          return <div style={{ display: "flex" }}>{found.map((frame, n) => {
            const field = frame.fields[1], values = field.values.filter((v) => !Number.isNaN(v));
            const value = field.display(values[values.length - 1]);
            return <BigValue key={n} width={each} height={tall} theme={theme} colorMode="value" graphMode="none"
              value={{ ...value, title: found.length > 1 ? frame.name : "" }} />;
          })}</div>;
        }
        return <TimeSeries frames={found} width={inner} height={tall} timeZone="utc" timeRange={range} theme={theme}
          structureRev={1} legend={{ displayMode: "list", placement: "bottom", showLegend: true, calcs: [] }} />;
      }}
    </PanelChrome>
  );
}

function Page() {
  const tallest = Math.max(...board.panels.map((p) => p.gridPos.y + p.gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <div id="page" style={{ position: "relative", width: 24 * CELL.w + 16, height: tallest * CELL.h + 76,
        background: theme.colors.background.canvas, color: theme.colors.text.primary, fontFamily: theme.typography.fontFamily }}>
        <div style={{ padding: "12px 16px", fontSize: 18 }}>{board.title}
          <span style={{ color: "#999", fontSize: 13, marginLeft: 16 }}>
            Rendered with Grafana's UI library (@grafana/ui) from dashboards/{window.__input.file}, not by a Grafana
            server. Data: `catchment local` and a second worker, load, S3 refusing for a while.</span></div>
        {board.panels.map((panel) => {
          const { x, y, w } = panel.gridPos;
          const style = { position: "absolute", left: 8 + x * CELL.w, top: 56 + y * CELL.h, width: w * CELL.w };
          return <div key={panel.id} style={style}>
            {panel.type === "row" ? <div style={{ padding: 8, fontSize: 15 }}>▾ {panel.title}</div> : <Panel panel={panel} />}
          </div>;
        })}
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById("root")).render(<Page />);
