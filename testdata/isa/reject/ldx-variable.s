; A compressed tensor that is an input of the entry.
; expect: structure: entry 0 `main`, launch 0: tensor r0 is compressed, but not in the weights
object "ldx-variable" target "mtia-300" hbm 1024 sram 0

origin o0 "/layer/Copy" "Identity"

kernel k0 "copy" grid 1x1x1x1 {
  tensor r0 in bytes 12 planes 0 12 4
  tensor r1 out bytes 512 planes 0 512 512
  buffer b0 "x" local 512 x 1
  view v0 u8 global r0 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 512:1<512)
  view v1 u8 global r1 k4 offset 0 (1:0, 1:0, 1:0, 1:0, 512:1<512)
  view v2 u8 local k4 offset 0 (1:512, 1:512, 1:512, 1:512, 512:1)
  code:
    ldx b0+:v2, v0, code=rows
    st b0-:v2, v1
    halt
}

entry e0 "main" {
  input "x" u8 (12) hbm:512
  output "y" u8 (512) hbm:0
  launch #0 k0 (hbm:512, hbm:0) o0
  code:
    launch #0
    halt
}

weights 0 {
}
